defmodule GrpcLb.Dashboard.Handler do
  # How OTP's httpd has requests answered.
  @moduledoc false

  alias GrpcLb.Dashboard.{Looks, Site}

  # inets/include/httpd.hrl, which is not installed everywhere.
  require Record

  Record.defrecordp(:mod, [
    :init_data,
    :data,
    :socket_type,
    :socket,
    :config_db,
    :method,
    :absolute_uri,
    :request_uri,
    :http_version,
    :request_line,
    :parsed_header,
    :entity_body,
    :connection
  ])

  # Where the names, and who looks, are in httpd's configuration.
  @key :grpc_lb_dashboard

  @doc "What httpd is configured with, so that requests come here."
  @spec config([String.t()], pid()) :: keyword()
  def config(names, looks), do: [{:modules, [__MODULE__]}, {@key, {names, looks}}]

  @doc false
  # `do` is what httpd calls.
  def unquote(:do)(mod(method: method, request_uri: uri, parsed_header: headers, config_db: db)) do
    request = %{
      method: to_string(method),
      path: uri |> to_string() |> String.split("?") |> hd(),
      host: header(headers, ~c"host"),
      origin: header(headers, ~c"origin"),
      fetched_by: header(headers, ~c"sec-fetch-site")
    }

    {names, looks} = :httpd_util.lookup(db, @key)
    {status, headers, body} = Site.answer(request, names, &Looks.at(looks, &1))
    body = IO.iodata_to_binary(body)
    length = Integer.to_charlist(byte_size(body))
    head = for {name, value} <- headers, do: {to_charlist(name), to_charlist(value)}
    head = [{:code, status}, {:content_length, length} | head]
    {:proceed, [{:response, {:response, head, [body]}}]}
  end

  defp header(headers, name) do
    case List.keyfind(headers, name, 0) do
      {_name, value} -> to_string(value)
      nil -> nil
    end
  end
end
