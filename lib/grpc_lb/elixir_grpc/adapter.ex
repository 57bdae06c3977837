defmodule GrpcLb.ElixirGrpc.Adapter do
  alias GrpcLb.ElixirGrpc.{AdapterOptions, Call, Holder}
  alias GrpcLb.Text

  @moduledoc """
  A client adapter for elixir-grpc (`GRPC.Client.Adapter`) that chooses the server of every call with a
  balancer, and has another adapter connect and call:

      {:ok, channel} =
        GRPC.Stub.connect("dns://payments:50051",
          adapter: GrpcLb.ElixirGrpc.Adapter,
          adapter_opts: [
            grpc_lb: [
              adapter: GRPC.Client.Adapters.Gun,
              policy: :peak_ewma,
              outlier_detection: [consecutive_failures: 5]
            ]
          ]
        )

      {:ok, receipt} = Payments.Stub.charge(channel, request)

  elixir-grpc resolves the target and connects to its addresses as ever: each of them becomes a
  backend, `{host, port}`, of the one balancer of that connection. Whatever `lb_policy` picks, the call
  goes where the balancer says. `balancer/1` returns it.

  ## Options

  Those in `:grpc_lb` are this adapter's, all others are those of the adapter that is named there.

  #{AdapterOptions.docs()}

  ## Calls

  A call is in flight from when it is sent until its answer is here. A stream is until it was read to
  its end, until nobody reads on, or until it is cancelled; also when its process dies. What counts as a
  failure of the server, `GrpcLb.ElixirGrpc.Outcome` says.

  What this adapter has to say itself is a `GRPC.RPCError`: UNAVAILABLE when no server is ready or the
  connection's process ended, and RESOURCE_EXHAUSTED when `:max_requests` or
  `:max_requests_per_backend` are reached. The caller does not exit.

  With `{:weighted_round_robin, weights: :reported}` the load reports that servers put into their
  trailers (gRFC A51) are taken in. Those of calls that fail are with Gun alone: Mint's adapter keeps the
  trailers.

  ## Connections

  A backend whose connection is lost leaves the rotation at once, and is connected to again, see the
  option `:backoff`: elixir-grpc itself does not find out. With the new connection it is a new backend:
  its failures are forgotten, and with `:slow_start` it starts slowly. How a connection is known to be
  lost:

    * its process, `conn_pid` in the adapter's payload, has ended
    * Gun says so, or has crashed. Options of Gun may be given as ever; `retry` is 0 by default, so that
      this adapter, not Gun, connects again
    * Mint's adapter says so

  A server that goes away (HTTP/2's GOAWAY) is connected to anew beside the old connection, which stays
  open for the calls that it has. Gun tells nobody of a GOAWAY: it refuses the next call, which is made
  elsewhere, and no further one is sent there. One whose request is a stream cannot be made again, and
  fails. Mint's adapter ends all calls of the connection at the GOAWAY.

  Where no server is ready, calls wait while one is connected to that was connected before, for 5 seconds
  and their timeout at most, and are UNAVAILABLE once it could not be.

  When a process of elixir-grpc is killed, a supervisor starts another in its place, which may know
  less: addresses that it has not asked for within a minute are removed, unless it has none.

  Where an adapter has no process that ends, nobody finds out: take outlier detection.
  """

  @doc "Connects to the channel's address, and lists it in the balancer of the channel's `ref`."
  @spec connect(channel :: map(), keyword()) ::
          {:ok, channel :: map()} | {:error, reason :: term()}
  def connect(channel, opts) do
    {options, opts} = Keyword.pop(opts, :grpc_lb, [])

    with {:ok, subchannel} <- Holder.connect(channel, AdapterOptions.new!(options), opts) do
      {:ok, %{channel | adapter_payload: %{conn_pid: subchannel}}}
    end
  end

  @doc "Removes the channel's address from the balancer, which closes with the last one."
  @spec disconnect(channel :: map()) :: {:ok, channel :: map()}
  def disconnect(%{adapter_payload: payload} = channel) do
    with %{conn_pid: subchannel} when is_pid(subchannel) <- payload do
      Holder.disconnect(channel.ref, {channel.host, channel.port})
    end

    {:ok, %{channel | adapter_payload: %{conn_pid: nil}}}
  end

  @doc "Sends a request that is one message."
  @spec send_request(stream :: map(), iodata(), keyword()) :: stream :: map()
  def send_request(stream, contents, opts) do
    begin(stream, opts, true, fn adapter, stream, opts ->
      adapter.send_request(stream, contents, opts)
    end)
  end

  @doc "Begins a request that is a stream."
  @spec send_headers(stream :: map(), keyword()) :: stream :: map()
  def send_headers(stream, opts) do
    begin(stream, opts, false, fn adapter, stream, opts -> adapter.send_headers(stream, opts) end)
  end

  @doc "Sends one message of a request that is a stream."
  @spec send_data(stream :: map(), iodata(), keyword()) :: stream :: map()
  def send_data(stream, message, opts) do
    Call.continue(stream, fn adapter, stream -> adapter.send_data(stream, message, opts) end)
  end

  @doc "Ends a request that is a stream."
  @spec end_stream(stream :: map()) :: stream :: map()
  def end_stream(stream) do
    Call.continue(stream, fn adapter, stream -> adapter.end_stream(stream) end)
  end

  @doc "Receives the answer, or the stream of answers."
  @spec receive_data(stream :: map(), keyword()) ::
          {:ok, answer :: term()} | {:ok, answer :: term(), map()} | {:error, term()}
  defdelegate receive_data(stream, opts), to: Call

  @doc "Cancels a call."
  @spec cancel(stream :: map()) :: :ok | {:error, term()}
  defdelegate cancel(stream), to: Call

  @doc """
  The balancer of a channel's connection, for `GrpcLb.info/1` and the like.

    * `{:ok, balancer}`
    * `{:error, :closed}` - there is none: the channel was disconnected, or is another adapter's
  """
  @spec balancer(channel :: map()) :: {:ok, GrpcLb.balancer()} | {:error, :closed}
  def balancer(%{ref: ref}) do
    case Holder.lookup(ref) do
      {:ok, connection} -> {:ok, connection.balancer}
      :error -> {:error, :closed}
    end
  end

  def balancer(other) do
    raise ArgumentError, "channel must be a GRPC.Channel, got: #{Text.show(other)}"
  end

  defp begin(stream, opts, whole?, send) do
    case Holder.lookup(stream.channel.ref) do
      {:ok, %{adapter: adapter} = connection} ->
        # Mint's adapter wants to know that at the request.
        opts = if connection.reports?, do: Keyword.put(opts, :return_headers, true), else: opts

        Call.begin(stream, connection, %{
          key: key(connection.hash_key, stream, opts),
          timeout: Keyword.get(opts, :timeout, :infinity),
          whole?: whole?,
          send: &send.(adapter, &1, opts)
        })

      :error ->
        Call.fail(stream, Call.unavailable("the connection is closed"))
    end
  end

  @doc false
  def key(nil, _stream, _opts), do: nil

  # Several values are one key, joined as HTTP joins them.
  def key({:header, name}, stream, opts) do
    values =
      for headers <- [stream.channel.headers, stream.headers, opts[:metadata]],
          {header, value} <- headers || [],
          String.downcase(to_string(header)) == name,
          do: to_string(value)

    if values != [], do: Enum.join(values, ",")
  end
end
