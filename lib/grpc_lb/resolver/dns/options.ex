defmodule GrpcLb.Resolver.DNS.Options do
  # The options of GrpcLb.Resolver.DNS, as data: validation and documentation come from it.
  @moduledoc false

  alias GrpcLb.Address

  @dns_port 53

  # In the order of the documentation.
  @options [
    nameservers: [
      default: :system,
      allowed: "a list of \"ip\", \"ip:port\" or {ip, port}, with one at least, or :system",
      doc: """
      the servers to ask, one after the other, each as `"10.0.0.53"`, `"10.0.0.53:5353"` or
      `{{10, 0, 0, 53}, 53}`. `:system`: those of `/etc/resolv.conf`. A target that names a server
      asks that one.
      """
    ],
    timeout: [
      default: 5_000,
      allowed: "a number of milliseconds from 1 to 4294967295",
      doc: "how long all questions of one resolution may take together, in milliseconds."
    ],
    srv: [
      default: false,
      allowed: "a boolean",
      doc: "whether the target names an SRV record, see below."
    ],
    min_ttl: [
      default: 5,
      allowed: "a number of seconds, 1 at least",
      doc: "the shortest time for which an answer holds, in seconds, whatever DNS says."
    ],
    max_ttl: [
      default: 300,
      allowed: "a number of seconds, :min_ttl at least",
      doc: "the longest time for which an answer holds, in seconds, whatever DNS says."
    ]
  ]

  @type t :: %{
          nameservers: :system | [{:inet.ip_address(), :inet.port_number()}],
          timeout: pos_integer(),
          srv: boolean(),
          min_ttl: pos_integer(),
          max_ttl: pos_integer()
        }

  @doc "The options as a list in Markdown."
  @spec doc() :: String.t()
  def doc do
    Enum.map_join(@options, "\n", fn {option, spec} ->
      doc = spec[:doc] |> String.trim() |> String.replace("\n", "\n    ")
      "  * `#{inspect(option)}` (default `#{inspect(spec[:default])}`) - #{doc}"
    end)
  end

  @doc """
  Validates options and spells all of them out.

  Raises `ArgumentError` that names the option, and says what is allowed.

      iex> GrpcLb.Resolver.DNS.Options.read!(nameservers: ["10.0.0.53"], srv: true)
      %{
        nameservers: [{{10, 0, 0, 53}, 53}],
        timeout: 5_000,
        srv: true,
        min_ttl: 5,
        max_ttl: 300
      }
  """
  @spec read!(keyword()) :: t()
  def read!(opts) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError,
            "options of GrpcLb.Resolver.DNS must be a keyword list, got: #{inspect(opts)}"
    end

    defaults = Map.new(@options, fn {option, spec} -> {option, spec[:default]} end)
    settings = Enum.reduce(opts, defaults, &setting!/2)

    if settings.min_ttl > settings.max_ttl, do: refuse!(:max_ttl, settings.max_ttl)
    settings
  end

  defp setting!({option, setting}, settings) when is_map_key(settings, option) do
    case read(option, setting) do
      {:ok, read} -> %{settings | option => read}
      :error -> refuse!(option, setting)
    end
  end

  defp setting!({option, _setting}, _settings) do
    raise ArgumentError,
          "unknown option #{inspect(option)} of GrpcLb.Resolver.DNS, " <>
            "expected #{Enum.map_join(@options, " or ", fn {known, _} -> inspect(known) end)}"
  end

  @spec refuse!(atom(), term()) :: no_return()
  defp refuse!(option, setting) do
    raise ArgumentError,
          "option #{inspect(option)} of GrpcLb.Resolver.DNS must be " <>
            "#{@options[option][:allowed]}, got: #{inspect(setting)}"
  end

  defp read(:nameservers, :system), do: {:ok, :system}

  defp read(:nameservers, [_ | _] = servers) do
    servers = if List.improper?(servers), do: [:error], else: Enum.map(servers, &server/1)
    if :error in servers, do: :error, else: {:ok, servers}
  end

  defp read(:timeout, timeout) when is_integer(timeout) and timeout in 1..0xFFFFFFFF,
    do: {:ok, timeout}

  defp read(:srv, srv) when is_boolean(srv), do: {:ok, srv}

  defp read(ttl, seconds)
       when ttl in [:min_ttl, :max_ttl] and is_integer(seconds) and seconds > 0,
       do: {:ok, seconds}

  defp read(_option, _setting), do: :error

  defp server(form) do
    case Address.new(form, @dns_port) do
      {:ok, %Address{ip: ip, port: port}} when tuple_size(ip) in [4, 8] -> {ip, port}
      _other -> :error
    end
  end
end
