defmodule GrpcLb.Test.Peer.Slots do
  @moduledoc "What `GrpcLb.SlotsTest` has done in a VM of its own, whose memory is all its own."

  alias GrpcLb.Native

  @doc """
  Begins so many calls at once, ends all but one, and says how many bytes the VM had before, meanwhile, and
  then.
  """
  def burst(calls) do
    {:ok, lb} = GrpcLb.new(:least_request, [:a])
    slots = Native.slots()
    before = resident()
    # Slots are numbers from 1 on, so that no list of them takes memory.
    Enum.each(1..calls, fn number -> {:ok, :a, ^number} = Native.begin_call(lb, slots) end)
    meanwhile = resident()
    Enum.each(2..calls, &(:ok = Native.complete(slots, &1, :ok, nil, nil)))
    left = resident()
    :ok = Native.complete(slots, 1, :ok, nil, nil)
    {before, meanwhile, left}
  end

  defp resident do
    [_, pages | _] = "/proc/self/statm" |> File.read!() |> String.split()
    String.to_integer(pages) * 4_096
  end
end
