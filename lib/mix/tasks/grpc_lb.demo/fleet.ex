defmodule Mix.Tasks.GrpcLb.Demo.Fleet do
  @moduledoc false
  # The servers and the connections to them. Every function runs in the process that started
  # the fleet, which owns the servers' ports.

  alias Mix.Tasks.GrpcLb.Demo.{Connection, Meter, ServerProcess}

  defmodule Member do
    @moduledoc false

    # served        the server's own count of its answers: asked for as it is drained; of a
    #               killed one, the last count that reached us
    # picks         the balancer's count of its picks, where it was asked for it
    # exit_status   of the operating-system process, once it has ended
    @enforce_keys [:name, :port, :os_pid, :connection, :meter]
    defstruct @enforce_keys ++ [:served, :picks, :exit_status, state: :serving]

    @type t :: %__MODULE__{
            name: String.t(),
            port: port(),
            os_pid: pos_integer(),
            connection: pid(),
            meter: Meter.t(),
            served: non_neg_integer() | nil,
            picks: non_neg_integer() | nil,
            exit_status: non_neg_integer() | :still_running | nil,
            state: :serving | :killed | :draining | :drained | :stopped
          }
  end

  # `work`: what the servers do, by name, see `ServerProcess.command/1`.
  @spec start([String.t()], %{String.t() => [integer()]}) :: [Member.t()]
  def start(names, work \\ %{}) do
    booting = for name <- names, do: {name, ServerProcess.open(Map.get(work, name, []))}

    for {name, port} <- booting do
      number = ServerProcess.await_listening(port)
      meter = Meter.new()
      {:ok, connection} = Connection.start_link(number, meter)
      os_pid = ServerProcess.os_pid(port)
      %Member{name: name, port: port, os_pid: os_pid, connection: connection, meter: meter}
    end
  end

  # The fleet as the balancer gets it: a connection that dies takes its backend out by itself.
  @spec backends([Member.t()]) :: [{String.t(), pid(), keyword()}]
  def backends(members), do: for(m <- members, do: {m.name, m.connection, owner: m.connection})

  # Returns once the connection has noticed and ended.
  @spec kill(Member.t()) :: :ok
  def kill(member) do
    monitor = Process.monitor(member.connection)
    ServerProcess.kill(member.os_pid)

    receive do
      {:DOWN, ^monitor, :process, _connection, _reason} -> :ok
    end
  end

  @spec bury(Member.t()) :: Member.t()
  def bury(member) do
    status = ServerProcess.await_exit(member.port)
    %{member | state: :killed, served: Meter.get(member.meter, :served), exit_status: status}
  end

  # Lets the member's requests in flight finish, then closes its connection, at which its
  # server ends.
  @spec stop(Member.t(), :drained | :stopped) :: Member.t()
  def stop(member, state) do
    served =
      case Connection.drain(member.connection) do
        {:ok, count} -> count
        {:error, _reason} -> nil
      end

    status = ServerProcess.await_exit(member.port)
    %{member | state: state, served: served, exit_status: status}
  end

  @spec answered([Member.t()]) :: non_neg_integer()
  def answered(members), do: members |> Enum.map(&Meter.get(&1.meter, :answered)) |> Enum.sum()

  @spec in_flight(Member.t()) :: non_neg_integer()
  def in_flight(member), do: Meter.get(member.meter, :sent) - Meter.get(member.meter, :answered)
end
