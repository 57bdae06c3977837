defmodule GrpcLb.Pool.Request do
  @moduledoc """
  A request that `GrpcLb.Pool.send_request/3` has sent, and the call that it is.

  `:id` is what `:gen_server.send_request/2` returned, and `:ticket` the call, which is in flight as long as
  nobody completes it. Whoever waits for the answer with functions of `:gen_server` completes the call with
  `GrpcLb.complete/3`.
  """

  alias GrpcLb.{Call, Text}

  @enforce_keys [:id, :ticket]
  defstruct @enforce_keys

  @type t :: %__MODULE__{id: :gen_server.request_id(), ticket: GrpcLb.ticket()}

  @doc false
  @spec send(GenServer.server(), term(), GrpcLb.ticket()) :: t()
  def send(server, request, ticket) do
    %__MODULE__{id: :gen_server.send_request(server!(server), request), ticket: ticket}
  catch
    kind, reason ->
      GrpcLb.complete(ticket, :cancelled)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc false
  # What GenServer.call/3 and the like would crash at.
  @spec server!(term()) :: GenServer.server()
  def server!(server) when is_pid(server) or is_atom(server), do: server
  def server!({name, node} = server) when is_atom(name) and is_atom(node), do: server
  def server!({:global, _name} = server), do: server
  def server!({:via, module, _name} = server) when is_atom(module), do: server

  def server!(other) do
    raise ArgumentError,
          "the value of a member that is called must be a server, as GenServer.call/3 takes it, got: " <>
            Text.show(other)
  end

  @doc false
  @spec check!(term()) :: t()
  def check!(%__MODULE__{} = request), do: request

  def check!(other) do
    raise ArgumentError,
          "request must be what GrpcLb.Pool.send_request/3 returned, got: #{Text.show(other)}"
  end

  @doc false
  def wait(%__MODULE__{id: id} = request, timeout) do
    ended(:gen_server.receive_response(id, timeout), request)
  end

  @doc false
  def check(message, %__MODULE__{id: id} = request) do
    ended(:gen_server.check_response(message, id), request)
  end

  @doc """
  What a reply is as an answer: `{:ok, reply}`, or itself where it says so already.

      iex> GrpcLb.Pool.Request.answer(7)
      {:ok, 7}
      iex> GrpcLb.Pool.Request.answer({:ok, 7})
      {:ok, 7}
      iex> GrpcLb.Pool.Request.answer({:error, :full})
      {:error, :full}
  """
  @spec answer(reply :: term()) :: {:ok, term()} | {:error, term()}
  def answer({ok_or_error, _term} = reply) when ok_or_error in [:ok, :error], do: reply
  def answer(reply), do: {:ok, reply}

  defp ended(:no_reply, _request), do: :no_reply

  defp ended({:reply, reply}, request) do
    GrpcLb.complete(request.ticket, Call.outcome(reply))
    answer(reply)
  end

  defp ended(:timeout, request) do
    GrpcLb.complete(request.ticket, {:error, :timeout})
    {:error, {:exit, :timeout}}
  end

  defp ended({:error, {reason, _server}}, request) do
    outcome = if unsent?(reason), do: {:error, {:transport, reason}}, else: {:error, reason}
    GrpcLb.complete(request.ticket, outcome)
    {:error, {:exit, reason}}
  end

  defp unsent?(reason), do: reason in [:noproc, :noconnection] or match?({:nodedown, _}, reason)
end
