[
  inputs: ["{mix,.formatter}.exs", "{lib,test,bench,examples,attack}/**/*.{ex,exs}"],
  subdirectories: ["integration/*"]
]
