defmodule GrpcLb.Test.Peer.Leaks do
  @moduledoc "What `GrpcLb.Stress.LeakTest` has done in a VM of its own."

  def inventory do
    Enum.each(Process.list(), &:erlang.garbage_collect/1)

    %{
      counts: GrpcLb.Native.live_counts(),
      ets: length(:ets.all()),
      persistent_terms: :persistent_term.info().count,
      memory: :erlang.memory(:total)
    }
  end

  def close_cycles do
    for i <- 1..500 do
      {:ok, lb} = GrpcLb.new(:round_robin, [{:a, "value #{i}"}, {:b, %{i => self()}}])
      {:ok, _} = GrpcLb.pick(lb)
      {:ok, _} = GrpcLb.reconcile(lb, [{:b, %{i => self()}}, {:c, [i]}])
      {:ok, _} = GrpcLb.pick(lb)
      :ok = GrpcLb.close(lb)
    end

    :ok
  end

  def drop_cycles do
    for i <- 1..500 do
      {:ok, lb} = GrpcLb.new({:round_robin, cursor: :per_scheduler}, [{:a, "value #{i}"}, :b])
      {:ok, _} = GrpcLb.pick(lb)
    end

    :ok
  end

  def refused_cycles do
    {:ok, lb} = GrpcLb.new(:random, [{:a, "value"}])

    for i <- 1..500 do
      {:error, :raised} = try_new([{:a, "value #{i}"}, {:a, "other"}])
      {:error, :raised} = try_reconcile(lb, [{:b, "value #{i}"}, {:b, "other"}])
    end

    :ok
  end

  defp try_new(backends) do
    GrpcLb.new(:random, backends)
  rescue
    ArgumentError -> {:error, :raised}
  end

  defp try_reconcile(lb, backends) do
    GrpcLb.reconcile(lb, backends)
  rescue
    ArgumentError -> {:error, :raised}
  end

  def owned_cycles do
    for i <- 1..100 do
      test = self()

      {owner, monitor} =
        spawn_monitor(fn ->
          backends = for id <- 1..10, do: {id, "value #{i}", owner: self()}
          {:ok, lb} = GrpcLb.new(:round_robin, backends, owner: self())

          pickers =
            for _ <- 1..4 do
              spawn_link(fn ->
                Stream.repeatedly(fn -> GrpcLb.pick(lb) end) |> Stream.run()
              end)
            end

          send(test, {:started, pickers})
          Process.sleep(:infinity)
        end)

      pickers =
        receive do
          {:started, pickers} -> pickers
        end

      monitors = [monitor | Enum.map(pickers, &Process.monitor/1)]
      Process.exit(owner, :kill)

      for monitor <- monitors do
        receive do
          {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
        end
      end
    end

    :ok
  end

  def values_after_close do
    {:ok, lb} = GrpcLb.new(:round_robin, for(i <- 1..100, do: {i, "value #{i}"}))
    100 = GrpcLb.Native.live_counts().values
    GrpcLb.close(lb)
    values = GrpcLb.Native.live_counts().values
    {:error, :closed} = GrpcLb.pick(lb)
    values
  end
end
