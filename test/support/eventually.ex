defmodule GrpcLb.Test.Eventually do
  @moduledoc """
  Waits for what sends no message: a garbage collection, what the VM frees after a process is dead,
  what another process makes of a message.
  """

  import ExUnit.Assertions

  # Reached by what never comes true alone, on a busy machine too.
  @deadline_ms 30_000
  @pause_ms 5

  @doc "Asserts that `check` becomes true; calls `describe` for the message if it does not."
  def eventually(check, describe \\ fn -> "it never became true" end) do
    wait(check, describe, System.monotonic_time(:millisecond) + @deadline_ms)
  end

  defp wait(check, describe, deadline) do
    cond do
      check.() ->
        :ok

      System.monotonic_time(:millisecond) > deadline ->
        flunk(describe.())

      true ->
        receive do
        after
          @pause_ms -> wait(check, describe, deadline)
        end
    end
  end
end
