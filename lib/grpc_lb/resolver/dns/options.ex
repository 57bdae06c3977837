defmodule GrpcLb.Resolver.DNS.Options do
  # The options of GrpcLb.Resolver.DNS, as data.
  @moduledoc false

  alias GrpcLb.{Address, Options}

  @dns_port 53

  @type t :: %{
          nameservers: :system | [{:inet.ip_address(), :inet.port_number()}],
          timeout: pos_integer(),
          srv: boolean(),
          min_ttl: pos_integer(),
          max_ttl: pos_integer()
        }

  @doc "The options as a list in Markdown."
  @spec docs() :: String.t()
  def docs, do: Options.docs(specs())

  # In the order of the documentation.
  defp specs do
    [
      nameservers: [
        type:
          {:or,
           {:reader, "a list of \"ip\", \"ip:port\" or {ip, port}, with one at least",
            &read_servers/1}, :system},
        default: :system,
        doc: """
        the servers to ask, one after the other, each as `"10.0.0.53"`, `"10.0.0.53:5353"` or
        `{{10, 0, 0, 53}, 53}`. `:system`: those of `/etc/resolv.conf`. A target that names a server
        asks that one.
        """
      ],
      timeout: [
        type: {:ms, 1},
        default: 5_000,
        doc: "how long all questions of one resolution may take together, in milliseconds."
      ],
      srv: [
        type: {:one_of, [false, true]},
        default: false,
        doc: "whether the target names an SRV record, see below."
      ],
      min_ttl: [
        type: {:seconds, 1},
        default: 5,
        doc: "the shortest time for which an answer holds, in seconds, whatever DNS says."
      ],
      max_ttl: [
        type: {:seconds, 1},
        default: 300,
        doc: """
        the longest time for which an answer holds, in seconds, whatever DNS says; not below
        `:min_ttl`.
        """
      ]
    ]
  end

  @doc """
  Validates options and fills in the defaults.

  Raises `ArgumentError` that names the option, and says what is allowed.

      iex> GrpcLb.Resolver.DNS.Options.validate!(nameservers: ["10.0.0.53"], srv: true)
      %{
        nameservers: [{{10, 0, 0, 53}, 53}],
        timeout: 5_000,
        srv: true,
        min_ttl: 5,
        max_ttl: 300
      }
  """
  @spec validate!(keyword()) :: t()
  def validate!(opts) do
    options = Options.validate!(opts, specs(), GrpcLb.Resolver.DNS)

    if options.min_ttl > options.max_ttl do
      raise ArgumentError,
            "option :max_ttl of GrpcLb.Resolver.DNS must be a number of seconds from :min_ttl, " <>
              "which is #{options.min_ttl}, got: #{options.max_ttl}"
    end

    options
  end

  defp read_servers([_ | _] = forms) do
    servers = if List.improper?(forms), do: [:error], else: Enum.map(forms, &server/1)
    if :error in servers, do: :error, else: {:ok, servers}
  end

  defp read_servers(_other), do: :error

  defp server(form) do
    case Address.new(form, @dns_port) do
      {:ok, %Address{ip: ip, port: port, zone: nil}} when tuple_size(ip) in [4, 8] -> {ip, port}
      _other -> :error
    end
  end
end
