defmodule GrpcLb.Bench.Channel do
  @moduledoc false
  # A struct of the fields and of the size (46 words) of elixir-grpc's channel: the value that the
  # first user of this library picks. All channels of a connection have its `ref`.

  defstruct [
    :host,
    :port,
    :scheme,
    :cred,
    :ref,
    :adapter,
    :adapter_payload,
    :codec,
    :interceptors,
    :compressor,
    :accepted_compressors,
    :headers
  ]

  def new(index, conn_pid, ref \\ make_ref()) do
    %__MODULE__{
      host: "10.0.0.#{10 + rem(index, 90)}",
      port: 50_000 + div(index, 90),
      scheme: "http",
      ref: ref,
      adapter: GRPC.Client.Adapters.Gun,
      adapter_payload: %{conn_pid: conn_pid},
      codec: GRPC.Codec.Proto,
      interceptors: [],
      accepted_compressors: [],
      headers: []
    }
  end
end
