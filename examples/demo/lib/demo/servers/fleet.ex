defmodule Demo.Servers.Fleet do
  @moduledoc false
  # The servers, and the clients that are connected to them. Every function runs in the process
  # that started the fleet, which owns the servers.

  alias Demo.Callers.{Client, Meter}
  alias Demo.Servers.ServerProcess

  defmodule Member do
    @moduledoc false

    # process       the port of the operating-system process
    # number        the TCP port
    # served        the server's own count of its answers: asked for as it is drained; of a
    #               killed one, the last count that reached us
    # picks         the balancer's count of its picks, where it was asked for it
    # exit_status   of the operating-system process, once it has ended
    @enforce_keys [:name, :process, :number, :os_pid, :meter]
    defstruct @enforce_keys ++ [:client, :served, :picks, :exit_status, state: :serving]

    @type t :: %__MODULE__{
            name: String.t(),
            process: port(),
            number: :inet.port_number(),
            os_pid: pos_integer(),
            meter: Meter.t(),
            client: pid() | nil,
            served: non_neg_integer() | nil,
            picks: non_neg_integer() | nil,
            exit_status: non_neg_integer() | :still_running | nil,
            state: :serving | :killed | :draining | :drained | :stopped
          }
  end

  # Servers and no clients. `number` is the TCP port, for one server that has to have a certain one.
  @spec boot([String.t()], keyword()) :: [Member.t()]
  def boot(names, options \\ []) do
    work = Keyword.get(options, :work, %{})
    number = Keyword.get(options, :number, 0)
    booting = for name <- names, do: {name, ServerProcess.open(number, work[name])}

    for {name, process} <- booting do
      %Member{
        name: name,
        process: process,
        number: ServerProcess.await_listening(process),
        os_pid: ServerProcess.os_pid(process),
        meter: Meter.new()
      }
    end
  end

  # Each with a client. `work`: what the servers do, by name.
  @spec start([String.t()], %{String.t() => ServerProcess.work()}) :: [Member.t()]
  def start(names, work \\ %{}) do
    for member <- boot(names, work: work) do
      {:ok, client} = Client.start_link(member.number, member.meter)
      %{member | client: client}
    end
  end

  # The fleet as the balancer gets it: a client that dies takes its backend out by itself.
  @spec backends([Member.t()]) :: [{String.t(), pid(), keyword()}]
  def backends(members), do: for(m <- members, do: {m.name, m.client, owner: m.client})

  # Returns once `client` has noticed and ended.
  @spec kill(Member.t(), pid()) :: Member.t()
  def kill(member, client) do
    monitor = Process.monitor(client)
    ServerProcess.kill(member.os_pid)

    receive do
      {:DOWN, ^monitor, :process, _client, _reason} -> %{member | state: :killed}
    end
  end

  # What is left of a killed one.
  @spec collect(Member.t()) :: Member.t()
  def collect(member) do
    status = ServerProcess.await_exit(member.process)
    %{member | served: Meter.get(member.meter, :served), exit_status: status}
  end

  # Lets the client's requests in flight finish, closes its connection, and ends the server.
  @spec stop(Member.t(), :drained | :stopped) :: Member.t()
  def stop(member, state) do
    served =
      case member.client && Client.drain(member.client) do
        {:ok, count} -> count
        _no_answer -> nil
      end

    %{member | state: state, served: served, exit_status: ServerProcess.stop(member.process)}
  end

  # Has the server tell its clients to go, and end when they have. They are not the fleet's own.
  @spec leave(Member.t()) :: Member.t()
  def leave(member) do
    status = ServerProcess.leave(member.process)
    %{member | state: :drained, served: Meter.get(member.meter, :served), exit_status: status}
  end

  @spec answered([Member.t()]) :: non_neg_integer()
  def answered(members), do: members |> Enum.map(&Meter.get(&1.meter, :answered)) |> Enum.sum()

  @spec in_flight(Member.t()) :: non_neg_integer()
  def in_flight(member), do: Meter.get(member.meter, :sent) - Meter.get(member.meter, :answered)
end
