defmodule GrpcLb.Bench.Tail do
  @moduledoc false
  # The slowest picks of one process, while another changes the list of backends 100 times a
  # second and while nobody does. The two take turns, window by window. Each pick is timed by
  # itself, so a figure holds one reading of the clock too.

  alias GrpcLb.Bench.{Backends, Contender, Contenders, Stats}

  @backends 100
  @replaced 10
  @period_ms 10
  @share 0.001

  def contenders do
    [
      Contenders.native_shared(),
      Contenders.native_per_scheduler(),
      Contenders.elixir_grpc(),
      Contenders.persistent_tuple()
    ]
  end

  @doc "A row a contender: the slowest 0.1 % of picks in nanoseconds, quiet and under change."
  def measure(windows, picks) do
    {backends, spare} = Enum.split(Backends.start(@backends + @replaced, :pid), @backends)
    lists = {backends, Enum.drop(backends, @replaced) ++ spare}

    rows = for contender <- contenders(), do: row(contender, backends, lists, windows, picks)

    Backends.stop(backends ++ spare)
    rows
  end

  defp row(contender, backends, lists, windows, picks) do
    module = contender.module
    state = module.setup(backends, contender.opts)
    quiet = Contender.histogram()
    changing = Contender.histogram()

    changes =
      for _ <- 1..windows do
        sample(module, state, picks, quiet)
        changer = Task.async(fn -> change(module, state, lists, 0) end)
        sample(module, state, picks, changing)
        send(changer.pid, :stop)
        Task.await(changer)
      end

    module.teardown(state)

    %{
      contender: contender.key,
      title: contender.title,
      changes: Enum.sum(changes),
      quiet: slowest(quiet),
      changing: slowest(changing)
    }
  end

  defp sample(module, state, picks, histogram) do
    Task.await(Task.async(fn -> module.sample(state, picks, histogram, nil) end), :infinity)
  end

  defp change(module, state, {next, other}, done) do
    module.update(state, next)

    receive do
      :stop -> done + 1
    after
      @period_ms -> change(module, state, {other, next}, done + 1)
    end
  end

  defp slowest(histogram) do
    slowest = Stats.slowest(Contender.durations(histogram), @share)
    %{begins_ns: nanoseconds(slowest.begins), mean_ns: nanoseconds(slowest.mean)}
  end

  defp nanoseconds(native), do: native * 1.0e9 / System.convert_time_unit(1, :second, :native)
end
