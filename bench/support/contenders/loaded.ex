defmodule GrpcLb.Bench.Contenders.Loaded do
  @moduledoc false
  # With calls in flight, 0 to 7 of them, so that there is something to compare.

  use GrpcLb.Bench.Contender

  alias GrpcLb.Bench.Contenders.Native

  @most 8

  @impl true
  def setup(backends, opts) do
    balancer = Native.setup(backends, opts)
    {:ok, holder} = Agent.start_link(fn -> load(balancer, length(backends)) end)
    {balancer, holder}
  end

  @impl true
  def teardown({balancer, holder}) do
    Agent.stop(holder)
    Native.teardown(balancer)
  end

  @impl true
  def pick({balancer, _holder}), do: GrpcLb.Native.pick(balancer)

  # The tickets of the calls that stay in flight.
  defp load(balancer, count) do
    tickets =
      for _ <- 1..(@most * count),
          {:ok, value, ticket} = GrpcLb.checkout(balancer),
          do: {value, ticket}

    tickets
    |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
    |> Enum.with_index()
    |> Enum.flat_map(fn {{_value, tickets}, index} ->
      {kept, ended} = Enum.split(tickets, rem(index, @most))
      Enum.each(ended, &GrpcLb.complete(&1, :ok))
      kept
    end)
  end
end
