defmodule GrpcLb.Pool.Predecessor do
  @moduledoc false
  # When a supervisor is killed and started again, a process of the old one can still be about to end.

  # How long it has for that. One that is in a native call ends only after it, and where many make
  # such calls that can take its time.
  @end_ms 30_000

  @doc "Waits until a process has ended, if there is one. Returns `:timeout` when that takes too long."
  @spec await_end(pid() | nil) :: :ok | :timeout
  def await_end(nil), do: :ok

  def await_end(pid) do
    ref = Process.monitor(pid)

    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} -> :ok
    after
      @end_ms ->
        Process.demonitor(ref, [:flush])
        :timeout
    end
  end
end
