defmodule GrpcLb.Dashboard.Site do
  # What is answered to requests. A page elsewhere must not read it through a visitor's browser: not by a
  # name of its own that leads to this address, and not as a page of another origin.
  @moduledoc false

  alias GrpcLb.Dashboard.{Json, Page}
  alias GrpcLb.Sample

  @type request :: %{
          method: String.t(),
          path: String.t(),
          host: String.t() | nil,
          origin: String.t() | nil
        }

  @type response ::
          {status :: pos_integer(), [{name :: String.t(), value :: String.t()}], iodata()}

  @headers [
    {"cache-control", "no-store"},
    {"x-content-type-options", "nosniff"},
    {"x-frame-options", "DENY"},
    {"referrer-policy", "no-referrer"},
    {"cross-origin-resource-policy", "same-origin"},
    {"cross-origin-opener-policy", "same-origin"},
    {"content-security-policy", Page.policy()}
  ]

  @doc "Answers a request. `names` are those of the hosts that it may be for, in lower case."
  @spec answer(request(), names :: [String.t()]) :: response()
  def answer(request, names) do
    cond do
      not ours?(request.host, names) -> refuse(403, "this host is not one of the dashboard's")
      not same_origin?(request) -> refuse(403, "requests of other origins are refused")
      request.method != "GET" -> refuse(405, "GET alone is allowed", [{"allow", "GET"}])
      true -> page(request.path)
    end
  end

  # With any port: a tunnel has one of its own.
  defp ours?(host, names) do
    case Regex.run(~r/\A(\[[^\[\]]+\]|[^:\[\]]+)(?::\d{1,5})?\z/, host || "") do
      [_host, name] -> String.downcase(name) in names
      nil -> false
    end
  end

  # What browsers leave out where a page asks for its own host.
  defp same_origin?(%{origin: nil}), do: true

  defp same_origin?(%{origin: origin, host: host}),
    do: origin in ["http://#{host}", "https://#{host}"]

  defp page("/"),
    do: {200, [{"content-type", "text/html; charset=utf-8"} | @headers], Page.html()}

  defp page("/balancers.json"),
    do: json(%{node: Atom.to_string(node()), balancers: Sample.list()})

  defp page("/balancers/" <> file) do
    with {number, ".json"} when number in 1..0xFFFFFFFFFFFFFFFF <- Integer.parse(file),
         {:ok, sample} <- Sample.take(number) do
      json(sample)
    else
      _none -> refuse(404, "there is no such balancer")
    end
  end

  defp page(_other), do: refuse(404, "there is nothing here")

  defp json(value),
    do: {200, [{"content-type", "application/json"} | @headers], Json.encode(value)}

  defp refuse(status, why, more \\ []),
    do: {status, [{"content-type", "text/plain; charset=utf-8"} | more ++ @headers], [why, ?\n]}
end
