defmodule GrpcLb.Transport do
  @moduledoc """
  A transport is how a connection reaches one address: a socket, a client process, an HTTP/2
  connection. A connection opens one to every backend and balances over the open ones.

  A module is given to a connection as `transport: MyApp.Lines` or `transport: {MyApp.Lines, opts}`:

      defmodule MyApp.Lines do
        @behaviour GrpcLb.Transport

        @impl true
        def open(address, opts) do
          opts = [:binary, packet: :line, active: false] ++ opts

          with {:ok, socket} <- :gen_tcp.connect(address.ip, address.port, opts, 5_000) do
            {:ok, socket}
          end
        end

        @impl true
        def close(socket), do: :gen_tcp.close(socket)

        @impl true
        def check(socket) do
          with :ok <- :gen_tcp.send(socket, "ping\\n"),
               {:ok, "pong\\n"} <- :gen_tcp.recv(socket, 0, 1_000) do
            :ok
          else
            {:ok, line} -> {:error, {:unexpected, line}}
            {:error, reason} -> {:error, reason}
          end
        end
      end

  ## Processes

  All callbacks for one transport run in one process, the subchannel, which opens one transport and
  ends with it. It traps exits. So a socket that `open/2` opens, and a process that it starts with a
  link, go when the subchannel goes, also when it is killed. Messages to it are dropped, but for those of
  `draining/1`, `healthy/1` and `unhealthy/2`.

  A subchannel may take its time: it holds up neither picks nor the connection. The connection kills
  it when `open/2` takes longer than the option `:connect_timeout`, `check/1` longer than
  `:check_timeout`, or a close 3 seconds longer than what is left of `:drain_timeout`, and when the address
  goes while `open/2` runs. Where `:drain_timeout` is `:infinity`, `close/2` has all the time there is, and
  `close/1`, or a check that is under way when it is to come, 3 seconds longer than `:check_timeout`. What
  `open/2` had returned is closed all the same: in a process of its own then, which has 1 second.

  ## When a transport is down

    * its owner ended, or, where there is none, the subchannel: the backend leaves the rotation at
      once, through the owner that the balancer watches itself
    * a process linked to the subchannel ended, with another reason than `:normal`, or with any when
      it is itself the value
    * `check/1` returned an error, as often in a row as the option `:unhealthy_threshold` says

  Then it is closed, and `open/2` comes in a new subchannel, which does not wait for that: at once, or after a backoff when the one before
  was lost too and this one has not worked either, see `GrpcLb.Connection`. If a peer can go without
  any of these, give its transport `check/1` or an owner.

  ## When a transport takes no new calls

  HTTP/2's GOAWAY (RFC 9113, 6.8) and a maximum age end a connection for new calls, and not for those in
  flight. There are two ways to say so.

  `draining/1`, from any process, with the process in which `open/2` has run:

      def open(address, _opts) do
        # It calls GrpcLb.Transport.draining(subchannel) when it has read a GOAWAY.
        MyApp.Http2.start_link(address, subchannel: self())
      end

  The transport leaves the rotation, and `open/2` runs in a new subchannel at once. The old one stays open
  until the last call that is counted for it has ended, for `:drain_timeout` at most, and is closed then.
  Where no other backend can be picked, it is picked until the new one can be, so that a connection to one
  backend is not without it meanwhile: a call that is refused then fails.

  Or by the end of the owner, where the value is another process that lives on. All of that is the same,
  but it is not picked any more, even if there is no other.

  gRPC's channel goes idle at a GOAWAY and connects with the next call; here the connection connects at
  once, and asks for a resolution as gRPC does.

  ## When it is closed

  What `close/1` closes has left the rotation, and calls that are counted have ended, or `:drain_timeout`
  is over; see there for which calls these are. A transport that knows better which of its calls are in
  flight has `close/2` in its place, and waits for them there.

  ## When a transport is unhealthy

  A server can say that it is not to be called: that it warms up, or that it has lost its database. Its
  transport is unhealthy then: it is open, and out of the rotation until it is healthy again. There are
  two ways to say so.

    * `check/1` returned `{:unhealthy, reason}`, as often in a row as `:unhealthy_threshold` says. It is
      healthy after as many `:ok` in a row as `:healthy_threshold` says, and down at once when the check
      says `{:error, reason}` meanwhile.
    * `unhealthy/2`, from any process, with the process in which `open/2` has run, as where a client hears
      of gRPC's health service. It counts at once, until `healthy/1`, whatever checks pass meanwhile. Called
      before `open/2` returns, it has the transport begin unhealthy.

  `healthy/1` ends both. For the connection's state an unhealthy backend is one that
  has failed, as with gRPC's client-side health checks; with a `:panic_threshold` it can be picked, as with
  Envoy's.

  A process that ends before `open/2` returns does not count, for it may be that of a first attempt,
  unless it is the owner or the value itself. So an `open/2` that starts a process should return it
  as the owner.

  A callback that raises, throws, exits or returns something else than allowed counts as one that
  returned `{:error, reason}`, with one of these reasons:

    * `{:raised, exception}`, `{:thrown, value}`, `{:exited, reason}`
    * `{:bad_return, term}`
  """

  alias GrpcLb.{Address, Text}

  @doc """
  Says that the transport of a subchannel takes no new calls, and ends with those that it has. The
  subchannel is the process in which `open/2` has run; it gets the message `:draining`. To say so again
  changes nothing.

      iex> GrpcLb.Transport.draining(self())
      iex> receive do
      ...>   message -> message
      ...> end
      :draining
  """
  @spec draining(subchannel :: pid()) :: :ok
  def draining(subchannel), do: tell(subchannel, :draining)

  @doc """
  Opens a transport to an address.

    * `{:ok, value}` - `value` is what a pick returns
    * `{:ok, value, owner}` - the same, and the transport is down when `owner`, a process of this
      node, ends. Without an owner the subchannel is it
    * `{:error, reason}` - tried again after a backoff. The reason is logged: let it have no secret in it

  `opts` are those of the connection's option `transport: {module, opts}`, and `[]` without any.
  """
  @callback open(address :: Address.t(), opts :: term()) ::
              {:ok, value :: term()}
              | {:ok, value :: term(), owner :: pid()}
              | {:error, reason :: term()}

  @doc """
  Closes what `open/2` opened, after it has left the rotation. Its owner may have ended before.

  Called once, and again in another process if the subchannel was killed in the middle of it. What it
  returns, or raises, does not matter.
  """
  @callback close(value :: term()) :: any()

  @doc """
  As `close/1`, which is not called where this is there, and may wait for calls: for so many milliseconds,
  what is left of `:drain_timeout`. That is 0 when it is over, and when the connection ends, which has
  waited before. It has 3 seconds more to close.
  """
  @callback close(value :: term(), drain_timeout :: timeout()) :: any()

  @doc """
  Checks whether the transport works. Called `:check_interval` milliseconds after the last time.

    * `:ok`
    * `{:unhealthy, reason}` - it works, and its server does not want calls
    * `{:error, reason}` - it does not work, and is to be opened anew
  """
  @callback check(value :: term()) ::
              :ok | {:unhealthy, reason :: term()} | {:error, reason :: term()}

  @doc """
  Says that the transport of a subchannel is not to be picked, see above. The subchannel is the process in
  which `open/2` has run; it gets the message `{:unhealthy, reason}`.

      iex> GrpcLb.Transport.unhealthy(self(), :not_serving)
      iex> receive do
      ...>   message -> message
      ...> end
      {:unhealthy, :not_serving}
  """
  @spec unhealthy(subchannel :: pid(), reason :: term()) :: :ok
  def unhealthy(subchannel, reason), do: tell(subchannel, {:unhealthy, reason})

  @doc """
  Says that the transport of a subchannel can be picked again. The subchannel gets the message `:healthy`.

      iex> GrpcLb.Transport.healthy(self())
      iex> receive do
      ...>   message -> message
      ...> end
      :healthy
  """
  @spec healthy(subchannel :: pid()) :: :ok
  def healthy(subchannel), do: tell(subchannel, :healthy)

  defp tell(subchannel, message) when is_pid(subchannel) do
    send(subchannel, message)
    :ok
  end

  defp tell(other, _message) do
    raise ArgumentError,
          "subchannel must be the pid of the process in which open/2 has run, got: #{Text.show(other)}"
  end

  @optional_callbacks check: 1, close: 1, close: 2
end
