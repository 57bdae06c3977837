defmodule GrpcLb.Test.Peer.Slots do
  @moduledoc "What `GrpcLb.SlotsTest` has done in a VM of its own, whose memory is all its own."

  import GrpcLb.Test.Eventually

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

  @doc """
  Has each backend of so many balancers called so many times by this process, until they go with all that
  they held; and again with others, whose values are new.
  """
  def in_turn(times, backends, balancers) do
    before = Native.live_counts().values

    for round <- 1..3 do
      list = for id <- 1..backends, do: {id, {:value, round, id}}
      lbs = for _ <- 1..balancers, do: elem(GrpcLb.new(:round_robin, list), 1)

      for _ <- 1..(times * backends), lb <- lbs do
        {:value, ^round, _id} = GrpcLb.run(lb, fn value -> value end)
      end

      for lb <- lbs, backend <- GrpcLb.info(lb).backends do
        {0, ^times, 0} = {backend.in_flight, backend.successes, backend.failures}
      end

      Enum.each(lbs, &GrpcLb.close/1)
      eventually(fn -> Native.live_counts().values == before end)
    end

    :gone
  end

  defp resident do
    [_, pages | _] = "/proc/self/statm" |> File.read!() |> String.split()
    String.to_integer(pages) * 4_096
  end
end
