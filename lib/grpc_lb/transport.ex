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
  link, go when the subchannel goes, also when it is killed. Messages to it are dropped.

  A subchannel may take its time: it holds up neither picks nor the connection. The connection kills
  it when `open/2` or `check/1` takes longer than the option `:connect_timeout`, or `close/1` longer
  than 3 seconds, and when the address goes while `open/2` runs. What `open/2` had returned is closed
  all the same: `close/1` runs in a process of its own then, which has 1 second.

  ## When a transport is down

    * its owner ended, or, where there is none, the subchannel: the backend leaves the rotation at
      once, through the owner that the balancer watches itself
    * a process linked to the subchannel ended, with another reason than `:normal`, or with any when
      it is itself the value
    * `check/1` returned an error

  Then comes `close/1` and `open/2` in a new subchannel: at once, or after a backoff when the one before
  was lost too and this one has not worked either, see `GrpcLb.Connection`. If a peer can go without
  any of these, give its transport `check/1` or an owner.

  A process that ends before `open/2` returns does not count, for it may be that of a first attempt,
  unless it is the owner or the value itself. So an `open/2` that starts a process should return it
  as the owner.

  A callback that raises, throws, exits or returns something else than allowed counts as one that
  returned `{:error, reason}`, with one of these reasons:

    * `{:raised, exception}`, `{:thrown, value}`, `{:exited, reason}`
    * `{:bad_return, term}`
  """

  alias GrpcLb.Address

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
  Checks whether the transport works. Called `:check_interval` milliseconds after the last time.
  """
  @callback check(value :: term()) :: :ok | {:error, reason :: term()}

  @optional_callbacks check: 1
end
