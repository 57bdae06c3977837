defmodule GrpcLb.ElixirGrpc.Call do
  @moduledoc false
  # One RPC on the connection that the balancer picked. The stream that elixir-grpc hands from one
  # callback to the next carries it in its channel, in place of the payload of the inner adapter.

  alias GrpcLb.{Line, LoadReport, Slots}
  alias GrpcLb.ElixirGrpc.{Answers, Holder, Outcome, Subchannel}

  @load_report "endpoint-load-metrics-bin"

  # How long a call waits for a server that is connected to, which takes the adapters as long at most.
  @await_ms 5_000

  @enforce_keys [:connection, :channel, :slots, :counted, :again]
  defstruct [:error | @enforce_keys]

  @typedoc """
  What the calls of a connection need to know of it. `reports?` says whether the policy looks at load
  reports.
  """
  @type connection :: %{
          balancer: GrpcLb.balancer(),
          holder: pid(),
          adapter: module(),
          classify: (error :: term() -> GrpcLb.outcome()),
          hash_key: {:header, String.t()} | nil,
          retry_unsent: non_neg_integer(),
          reports?: boolean()
        }

  @typedoc """
  `channel` is the one of the inner adapter. `counted` is the call as it is counted: among the `slots` of this
  process, or a ticket. `again` makes the call once more, where that is possible.
  A call with an `error` was never sent, or cannot go on.
  """
  @type t :: %__MODULE__{
          connection: connection() | nil,
          channel: map() | nil,
          slots: GrpcLb.Native.slots() | nil,
          counted: Slots.call() | nil,
          again: (() -> stream :: map()) | nil,
          error: Exception.t() | nil
        }

  @typedoc """
  `send` sends what begins the call; `whole?` says whether that is the whole request, so that the call can
  be made again when nobody has seen it.
  """
  @type request :: %{
          key: term(),
          timeout: timeout(),
          whole?: boolean(),
          send: (stream() -> stream())
        }

  @typedoc "A `GRPC.Client.Stream`."
  @type stream :: map()

  @doc """
  Picks a connection and has the request begin there.
  """
  @spec begin(stream(), connection(), request()) :: stream()
  def begin(stream, connection, request),
    do: attempt(stream, connection, request, connection.retry_unsent)

  defp attempt(stream, connection, request, retries) do
    again = if retries > 0, do: fn -> attempt(stream, connection, request, retries - 1) end

    slots = Slots.own()

    case checkout(stream, connection, request, slots) do
      {:ok, fields, counted} ->
        channel = Map.merge(%{stream.channel | adapter: connection.adapter}, fields)

        call = %__MODULE__{
          connection: connection,
          channel: channel,
          slots: slots,
          counted: counted,
          again: again
        }

        case guarded(call, fn -> request.send.(%{stream | channel: channel}) end) do
          {:ok, sent} -> carry(sent, if(request.whole?, do: call, else: %{call | again: nil}))
          {:exit, reason} -> not_sent(stream, reason, again)
        end

      {:error, :no_backends} when request.timeout > 0 ->
        # Once more in any case: it may have come since.
        timeout = await(connection, request.timeout)
        attempt(stream, connection, %{request | timeout: timeout}, retries)

      {:error, reason} ->
        fail(stream, not_picked(reason))
    end
  end

  # elixir-grpc receives one answer to one request where it has sent that. A stream may go to other
  # processes, and be forgotten.
  defp checkout(%{server_stream: false}, connection, %{whole?: true, key: key}, slots),
    do: Line.begin(connection.balancer, slots, key)

  defp checkout(_stream, connection, request, _slots),
    do: Line.checkout(connection.balancer, request.key)

  # What is left of the time.
  defp await(connection, timeout) do
    timeout = min(timeout, @await_ms)
    from = now()
    if Holder.await(connection.holder, timeout), do: max(from + timeout - now(), 0), else: 0
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp not_sent(stream, reason, again) do
    if again != nil and Subchannel.unsent?(reason),
      do: again.(),
      else: fail(stream, lost(reason))
  end

  @doc "The stream of a call that cannot be made: its answer is the error."
  @spec fail(stream(), Exception.t()) :: stream()
  def fail(stream, error) do
    carry(stream, %__MODULE__{
      connection: nil,
      channel: nil,
      slots: nil,
      counted: nil,
      again: nil,
      error: error
    })
  end

  @doc "Has the inner adapter do something with the stream, and return it."
  @spec continue(stream(), (module(), stream() -> stream())) :: stream()
  def continue(stream, fun) do
    case of(stream) do
      %{error: nil} = call ->
        case guarded(call, fn -> fun.(call.connection.adapter, inner(stream, call)) end) do
          {:ok, stream} -> carry(stream, call)
          {:exit, reason} -> fail(stream, lost(reason))
        end

      _failed ->
        stream
    end
  end

  @doc "Has the inner adapter cancel the call. One whose connection is gone has ended without that."
  @spec cancel(stream()) :: :ok | {:error, term()}
  def cancel(stream) do
    case of(stream) do
      %{error: nil} = call ->
        count(call, :cancelled)

        case guarded(call, fn -> call.connection.adapter.cancel(inner(stream, call)) end) do
          {:ok, cancelled} -> cancelled
          {:exit, _reason} -> :ok
        end

      _failed ->
        :ok
    end
  end

  @doc "Has the inner adapter receive the answer, and ends the call with it; a stream ends when it was read."
  @spec receive_data(stream(), keyword()) :: term()
  def receive_data(stream, opts) do
    case of(stream) do
      %{error: nil} = call -> receive_data(stream, opts, call)
      %{error: error} -> {:error, error}
    end
  end

  defp receive_data(stream, opts, call) do
    asked? = opts[:return_headers] == true
    asking = if call.connection.reports?, do: Keyword.put(opts, :return_headers, true), else: opts
    adapter = call.connection.adapter

    case guarded(call, fn -> adapter.receive_data(inner(stream, call), asking) end) do
      {:ok, {:error, error}} ->
        complete(call, {:error, error})
        # Before it is made again, lest the same connection is picked.
        if Outcome.going_away?(error), do: going_away(call)

        if call.again != nil and Outcome.unsent?(error) do
          receive_data(call.again.(), opts)
        else
          {:error, error}
        end

      {:ok, {:ok, answer, meta}} ->
        answer = answered(stream, answer, meta, asked?, call)
        if asked?, do: {:ok, answer, meta}, else: {:ok, answer}

      {:ok, {:ok, answer}} ->
        {:ok, answered(stream, answer, %{}, asked?, call)}

      {:exit, reason} ->
        {:error, lost(reason)}
    end
  end

  defp going_away(%{channel: %{adapter_payload: %{conn_pid: pid}}} = call) when is_pid(pid),
    do: Holder.going_away(call.connection.holder, pid)

  defp going_away(_call), do: :ok

  # The headers came, which is an answer. A list is the empty one of a server that sent nothing else.
  defp answered(%{server_stream: true}, answers, _meta, asked?, call) when not is_list(answers) do
    GrpcLb.first_response(call.counted)
    Answers.new(answers, call, asked?)
  end

  defp answered(_stream, answer, meta, _asked?, call) do
    complete(call, :ok, meta[:trailers])
    answer
  end

  @doc "Ends the call. `trailers` may have a load report with them (gRFC A51)."
  @spec complete(t(), :ok | :cancelled | {:error, error :: term()}, trailers :: map() | nil) ::
          :ok
  def complete(call, how, trailers \\ nil)

  def complete(call, {:error, error}, _trailers) do
    count(call, classified(call, error))
  end

  def complete(call, outcome, %{@load_report => report}) when is_binary(report) do
    count(call, outcome, LoadReport.to_native(report))
  end

  def complete(call, outcome, _no_report) do
    count(call, outcome)
  end

  defp count(call, outcome, report \\ nil) do
    Slots.finish(call.slots, call.counted, GrpcLb.Call.native_outcome!(outcome), report)
    :ok
  end

  defp classified(call, error) do
    call.connection.classify.(error)
  catch
    kind, reason ->
      count(call, :cancelled)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc """
  Calls `fun`, of the inner adapter. Its exit, which is that of a connection's process, ends the call as
  the loss of the connection and is returned; what it raises ends the call and goes on.
  """
  @spec guarded(t(), (() -> result)) :: {:ok, result} | {:exit, reason :: term()}
        when result: term()
  def guarded(call, fun) do
    {:ok, fun.()}
  catch
    :exit, reason ->
      complete(call, {:error, lost(reason)})
      {:exit, reason}

    kind, reason ->
      count(call, {:error, :raised})
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  @doc "The error of a call whose connection's process ended."
  @spec lost(reason :: term()) :: Exception.t()
  def lost(reason), do: unavailable("the connection was lost: " <> Exception.format_exit(reason))

  @doc "An error with the status UNAVAILABLE."
  @spec unavailable(String.t()) :: Exception.t()
  def unavailable(message), do: struct!(GRPC.RPCError, status: 14, message: message)

  defp not_picked(:no_backends), do: unavailable("no server is ready")
  defp not_picked(:closed), do: unavailable("the connection is closed")

  defp not_picked(:overloaded) do
    struct!(GRPC.RPCError, status: 8, message: "too many calls are in flight")
  end

  defp of(%{channel: %{adapter_payload: %__MODULE__{} = call}}), do: call

  defp inner(stream, call), do: %{stream | channel: call.channel}

  defp carry(stream, call) do
    %{
      stream
      | channel: %{stream.channel | adapter: GrpcLb.ElixirGrpc.Adapter, adapter_payload: call}
    }
  end
end
