# What GrpcLb.ElixirGrpc and its adapter use of elixir-grpc, which is not there. integration/elixir_grpc
# compares the shapes with the real ones.

defmodule GRPC.RPCError do
  @moduledoc false
  defexception [:status, :message, :details]
end

defmodule GRPC.Channel do
  @moduledoc false
  defstruct host: nil,
            port: nil,
            scheme: nil,
            cred: nil,
            ref: nil,
            adapter: nil,
            adapter_payload: nil,
            codec: GRPC.Codec.Proto,
            interceptors: [],
            compressor: nil,
            accepted_compressors: [],
            headers: []
end

defmodule GRPC.Client.Stream do
  @moduledoc false
  defstruct channel: nil,
            service_name: nil,
            method_name: nil,
            grpc_type: nil,
            rpc: nil,
            payload: %{},
            path: nil,
            request_mod: nil,
            response_mod: nil,
            codec: GRPC.Codec.Proto,
            server_stream: false,
            canceled: false,
            compressor: nil,
            accepted_compressors: [],
            headers: %{},
            __interface__: %{}
end

defmodule GRPC.Client.Adapter do
  @moduledoc false
  @callback connect(channel :: struct(), keyword()) :: {:ok, struct()} | {:error, any()}
  @callback disconnect(channel :: struct()) :: {:ok, struct()} | {:error, any()}
  @callback send_request(stream :: struct(), iodata(), keyword()) :: struct()
  @callback receive_data(stream :: struct(), keyword()) :: term()
  @callback send_headers(stream :: struct(), keyword()) :: struct()
  @callback send_data(stream :: struct(), iodata(), keyword()) :: struct()
  @callback end_stream(stream :: struct()) :: struct()
  @callback cancel(stream :: struct()) :: :ok | {:error, any()}
end

defmodule GRPC.Client.LoadBalancing do
  @moduledoc false
  @callback init(opts :: keyword()) :: {:ok, term()} | {:error, term()}
  @callback pick(state :: term()) :: {:ok, struct(), term()} | {:error, term()}
  @callback update(state :: term(), [struct()]) :: {:ok, term()} | {:error, term()}
end
