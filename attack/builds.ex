defmodule GrpcLb.Attack.Builds do
  @moduledoc """
  The native library twice: a copy under another path is another library to the loader, with statics of its
  own.
  """

  @doc "Makes the copy."
  def make do
    other = Path.join(System.tmp_dir!(), "grpc_lb_attack_#{System.pid()}/grpc_lb")
    own = Application.app_dir(:grpc_lb)

    for part <- ["ebin", "priv"] do
      File.mkdir_p!(other)
      File.cp_r!(Path.join(own, part), Path.join(other, part), dereference_symlinks: true)
    end

    %{own: own, other: other}
  end

  @doc "Loads the module again, with the library from there."
  def load(builds, which) do
    true = :code.replace_path(:grpc_lb, String.to_charlist(Path.join(builds[which], "ebin")))
    :code.purge(GrpcLb.Native)
    {:module, GrpcLb.Native} = :code.load_file(GrpcLb.Native)
  end

  @doc "What both hold, together."
  def live_counts(builds) do
    for which <- [:other, :own], reduce: %{} do
      sums ->
        load(builds, which)
        # Else that is done once in a minute.
        GrpcLb.Eraser.erase()
        free_what_waits()
        Map.merge(sums, GrpcLb.Native.live_counts(), fn _what, one, other -> one + other end)
    end
  end

  # What a pick has kept from being freed is freed by the next change, of any balancer.
  defp free_what_waits do
    change = fn ->
      {:ok, lb} = GrpcLb.new(:random, [1])
      for n <- 1..10, do: GrpcLb.reconcile(lb, [n])
      GrpcLb.close(lb)
    end

    {pid, monitor} = spawn_monitor(change)
    receive(do: ({:DOWN, ^monitor, :process, ^pid, _reason} -> :ok))
  end

  def delete(builds), do: builds.other |> Path.dirname() |> File.rm_rf!()
end
