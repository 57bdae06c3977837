defmodule GrpcLb.Dashboard.Site do
  # What is answered to requests. A page elsewhere must not read it through a visitor's browser: not by a
  # name of its own that leads to this address, and not as a page of another origin.
  @moduledoc false

  alias GrpcLb.Dashboard.{Looks, Page}

  @type request :: %{
          method: String.t(),
          path: String.t(),
          host: String.t() | nil,
          origin: String.t() | nil,
          fetched_by: String.t() | nil
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

  @no_host "this host is not one of the dashboard's: its option :hosts takes others"

  @doc """
  Answers a request. `names` are those of the hosts that it may be for, in lower case; `look` has
  balancers looked at, see `GrpcLb.Dashboard.Looks.at/2`.
  """
  @spec answer(request(), names :: [String.t()], look :: (Looks.what() -> term())) :: response()
  def answer(request, names, look) do
    cond do
      not ours?(request.host, names) -> refuse(403, @no_host)
      not same_origin?(request) -> refuse(403, "requests of other origins are refused")
      request.method != "GET" -> refuse(405, "GET alone is allowed", [{"allow", "GET"}])
      true -> page(request, look)
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

  # A link elsewhere may lead to the page.
  defp page(%{path: "/"}, _look),
    do: {200, [{"content-type", "text/html; charset=utf-8"} | @headers], Page.html()}

  # A page elsewhere cannot read what it has its visitor's browser fetch as an image, but could keep the
  # node busy. Browsers say who fetches (Fetch Metadata); what is no browser says nothing.
  defp page(%{fetched_by: by}, _look) when by not in [nil, "same-origin", "none"],
    do: refuse(403, "requests of other sites are refused")

  defp page(%{path: "/balancers.json"}, look), do: json(look.(:list))

  defp page(%{path: "/balancers/" <> file}, look) do
    case Integer.parse(file) do
      {number, ".json"} when number in 1..0xFFFFFFFFFFFFFFFF -> json(look.({:balancer, number}))
      _no_number -> json(:error)
    end
  end

  defp page(_other, _look), do: refuse(404, "there is nothing here")

  defp json({:ok, json}), do: {200, [{"content-type", "application/json"} | @headers], json}
  defp json(:error), do: refuse(404, "there is no such balancer")
  defp json(:busy), do: refuse(503, "balancers are looked at for others")

  defp refuse(status, why, more \\ []),
    do: {status, [{"content-type", "text/plain; charset=utf-8"} | more ++ @headers], [why, ?\n]}
end
