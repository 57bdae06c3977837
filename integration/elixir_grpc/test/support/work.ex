# A service with every kind of call, as protoc would have generated it.

defmodule Work.Request do
  use Protobuf, syntax: :proto3, protoc_gen_elixir_version: "0.15.0"

  # What the server is to do: sleep, fail with a status, or answer so often.
  field :sleep_ms, 1, type: :int32, json_name: "sleepMs"
  field :status, 2, type: :int32
  field :answers, 3, type: :int32
end

defmodule Work.Reply do
  use Protobuf, syntax: :proto3, protoc_gen_elixir_version: "0.15.0"

  field :server, 1, type: :int32
  # How many requests came before this reply.
  field :requests, 2, type: :int32
end

defmodule Work.Service do
  use GRPC.Service, name: "work.Work", protoc_gen_elixir_version: "0.15.0"

  rpc :One, Work.Request, Work.Reply
  rpc :Answers, Work.Request, stream(Work.Reply)
  rpc :Requests, stream(Work.Request), Work.Reply
  rpc :Both, stream(Work.Request), stream(Work.Reply)
end

defmodule Work.Stub do
  use GRPC.Stub, service: Work.Service
end

defmodule Work.Server do
  @moduledoc """
  The application environment of `:work_server` says which server this is, `:number`, and what it does to
  every call: `:sleep_ms`, `:status`, and `:utilization`, which it reports.
  """

  use GRPC.Server, service: Work.Service

  @report "endpoint-load-metrics-bin"

  def one(request, stream) do
    work(request)
    report(stream)
    reply(1)
  end

  def answers(request, stream) do
    work(%{request | status: 0})
    report(stream)
    for n <- 1..request.answers//1, do: GRPC.Server.send_reply(stream, reply(n))
    work(request)
  end

  def requests(requests, stream) do
    n =
      Enum.reduce(requests, 0, fn request, n ->
        work(request)
        n + 1
      end)

    report(stream)
    reply(n)
  end

  def both(requests, stream) do
    report(stream)

    Enum.reduce(requests, 1, fn request, n ->
      work(request)
      GRPC.Server.send_reply(stream, reply(n))
      n + 1
    end)
  end

  defp work(request) do
    Process.sleep(request.sleep_ms + mine(:sleep_ms, 0))

    case max(request.status, mine(:status, 0)) do
      0 -> :ok
      status -> raise GRPC.RPCError, status: status, message: "as asked"
    end
  end

  # cpu_utilization (field 1) and rps_fractional (field 6), as an OrcaLoadReport has them.
  defp report(stream) do
    with utilization when utilization != nil <- mine(:utilization, nil) do
      encoded = <<0x09, utilization::float-little, 0x31, 100.0::float-little>>
      GRPC.Server.set_trailers(stream, %{@report => encoded})
    end
  end

  defp reply(n), do: %Work.Reply{server: mine(:number, 0), requests: n}

  defp mine(key, default), do: Application.get_env(:work_server, key, default)
end

defmodule Work.Endpoint do
  use GRPC.Endpoint

  run Work.Server
end
