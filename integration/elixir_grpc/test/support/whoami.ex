# A service whose servers say which one they are, as protoc would have generated it.

defmodule Whoami.Request do
  use Protobuf, syntax: :proto3, protoc_gen_elixir_version: "0.15.0"
end

defmodule Whoami.Reply do
  use Protobuf, syntax: :proto3, protoc_gen_elixir_version: "0.15.0"

  field :server, 1, type: :int32
end

defmodule Whoami.Service do
  use GRPC.Service, name: "whoami.Whoami", protoc_gen_elixir_version: "0.15.0"

  rpc :Ask, Whoami.Request, Whoami.Reply
end

defmodule Whoami.Stub do
  use GRPC.Stub, service: Whoami.Service
end

# Routes belong to an endpoint, so each server needs one of its own.
for number <- 1..4 do
  server = Module.concat(Whoami, "Server#{number}")

  defmodule server do
    @moduledoc false
    use GRPC.Server, service: Whoami.Service

    def ask(_request, _stream), do: %Whoami.Reply{server: unquote(number)}
  end

  defmodule Module.concat(Whoami, "Endpoint#{number}") do
    @moduledoc false
    use GRPC.Endpoint

    run server
  end
end

defmodule Whoami do
  @moduledoc "Real servers on loopback sockets, and calls to them."

  @doc "Starts server `number` on a free port."
  def start_link(number) do
    GRPC.Server.Supervisor.start_link(
      endpoint: endpoint(number),
      port: 0,
      start_server: true,
      adapter_opts: [ip: {127, 0, 0, 1}]
    )
  end

  @doc "Where server `number` listens, as resolvers say it."
  def address(number) do
    %{address: "127.0.0.1", port: :ranch.get_port(inspect(endpoint(number)))}
  end

  @doc "Makes a call and returns the number of the server that answers it."
  def ask(channel) do
    with {:ok, %Whoami.Reply{server: number}} <- Whoami.Stub.ask(channel, %Whoami.Request{}) do
      {:ok, number}
    end
  end

  defp endpoint(number), do: Module.concat(__MODULE__, "Endpoint#{number}")
end
