[
  inputs: ["*.exs", "patches/*.ex", "test/**/*.{ex,exs}"],
  locals_without_parens: [field: 3, rpc: 3, run: 1]
]
