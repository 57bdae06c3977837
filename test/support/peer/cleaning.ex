defmodule GrpcLb.Test.Peer.Cleaning do
  @moduledoc "What `GrpcLb.JanitorTest` has done in a VM of its own, whose only scheduler is kept busy."

  alias GrpcLb.Janitor

  @doc """
  Has a process be killed, and what cleans up after it wait for its first turn as long as this. Says whether
  it has cleaned up.
  """
  def after_a_wait_of(ms) do
    # The first time loads code, which takes turns of others.
    true = cleaned_up?(fn -> :ok end)
    # Of the others none has a turn while these have something to do.
    :sys.replace_state(Janitor, &with(_normal <- Process.flag(:priority, :high), do: &1))
    Process.flag(:priority, :high)
    cleaned_up?(fn -> be_busy_until(:erlang.monotonic_time(:millisecond) + ms) end)
  end

  defp cleaned_up?(meanwhile) do
    test = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        :ok = Janitor.watch(__MODULE__)
        Janitor.clean_up_with({Kernel, :send, [test, :clean]})
        send(test, :watched)
        Process.sleep(:infinity)
      end)

    receive do: (:watched -> :ok)
    Process.exit(pid, :kill)
    receive do: ({:DOWN, ^monitor, :process, ^pid, :killed} -> :ok)
    meanwhile.()
    Janitor.await(__MODULE__)

    receive do
      :clean -> true
    after
      0 -> false
    end
  end

  defp be_busy_until(time),
    do: if(:erlang.monotonic_time(:millisecond) < time, do: be_busy_until(time))
end
