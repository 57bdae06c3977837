defmodule GrpcLb.Test.ScriptedTransport do
  @moduledoc """
  A transport whose every step a test decides: `open`, `check` and `close` wait until the test
  answers, or ends. Give it as `{GrpcLb.Test.ScriptedTransport, self()}`.
  """

  @behaviour GrpcLb.Transport

  import ExUnit.Assertions

  @patience_ms 10_000

  @impl true
  def open(address, test) do
    # The callbacks are promised to run in one process, so that the others find this.
    Process.put(__MODULE__, test)
    ask({:open, GrpcLb.Address.id(address)})
  end

  @impl true
  def check(value), do: ask({:check, value})

  @impl true
  def close(value), do: ask({:close, value})

  defp ask(question) do
    test = Process.get(__MODULE__)
    monitor = Process.monitor(test)
    send(test, {:asking, self(), question})

    receive do
      {:answer, ^test, fun} ->
        Process.demonitor(monitor, [:flush])
        fun.()

      {:DOWN, ^monitor, :process, ^test, _reason} ->
        {:error, :test_ended}
    end
  end

  @doc "Waits until the transport to `id` is being opened; returns who opens it."
  def opening(id), do: asking({:open, id})

  @doc "Waits until the transport with this value is being checked; returns who checks it."
  def checking(value), do: asking({:check, value})

  @doc "Waits until the transport with this value is being closed; returns who closes it."
  def closing(value), do: asking({:close, value})

  defp asking(question) do
    assert_receive {:asking, pid, ^question}, @patience_ms
    pid
  end

  @doc "Has the process that asks go on with what `fun` does there."
  def answer(pid, fun) do
    send(pid, {:answer, self(), fun})
    :ok
  end

  @doc "Lets the transport to `id` be opened, with the id as its value. Returns who holds it."
  def let_open(id) do
    pid = opening(id)
    answer(pid, fn -> {:ok, id} end)
    pid
  end

  @doc "Lets the transport with this value be closed."
  def let_close(value) do
    pid = closing(value)
    answer(pid, fn -> :ok end)
    pid
  end

  @doc "Has the next attempt to open a transport to `id` fail."
  def let_fail(id, reason \\ :refused) do
    pid = opening(id)
    answer(pid, fn -> {:error, reason} end)
    pid
  end
end
