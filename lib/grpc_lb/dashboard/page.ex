defmodule GrpcLb.Dashboard.Page do
  # The page, put together when this is compiled: one file that refers to no other, and a policy that lets
  # the browser run and fetch what is in it alone.
  @moduledoc false

  @folder __DIR__
  for file <- ["page.html", "style.css", "script.js"],
      do: @external_resource(Path.join(@folder, file))

  @style File.read!(Path.join(@folder, "style.css"))
  @script File.read!(Path.join(@folder, "script.js"))
  @html @folder
        |> Path.join("page.html")
        |> File.read!()
        |> String.replace("/* style */", @style)
        |> String.replace("/* script */", @script)

  @hash_of_style :sha256 |> :crypto.hash(@style) |> Base.encode64()
  @hash_of_script :sha256 |> :crypto.hash(@script) |> Base.encode64()

  @policy Enum.join(
            [
              "default-src 'none'",
              "script-src 'sha256-#{@hash_of_script}'",
              "style-src 'sha256-#{@hash_of_style}'",
              "img-src data:",
              "connect-src 'self'",
              "base-uri 'none'",
              "form-action 'none'",
              "frame-ancestors 'none'"
            ],
            "; "
          )

  @spec html() :: String.t()
  def html, do: @html

  @doc "The Content-Security-Policy."
  @spec policy() :: String.t()
  def policy, do: @policy
end
