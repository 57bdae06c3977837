defmodule GrpcLb.ReloadTest do
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Test.Peer

  @moduletag timeout: 120_000

  # Each in a VM of its own: the module that all other tests use is being replaced.
  setup do
    peer = Peer.start()
    %{peer: peer, lb: Peer.run(peer, Peer.Reload, :hold_balancer)}
  end

  defp native(peer, function, args), do: Peer.run(peer, GrpcLb.Native, function, args)

  test "loading the module again changes nothing for balancers", %{peer: peer, lb: holder} do
    for _ <- 1..5 do
      assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :load_again)
      assert_alive(peer, holder)
    end

    assert native(peer, :live_counts, []).balancers == 1
  end

  test "r GrpcLb.Native in IEx, under picks", %{peer: peer, lb: holder} do
    Peer.run(peer, Peer.Reload, :pick_under_reloads, [holder])
    assert_alive(peer, holder)
  end

  test "another build takes over, and the old one goes on serving its balancers",
       %{peer: peer, lb: holder} do
    old = Peer.run(peer, Peer.Reload, :library_path)
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])
    assert Peer.run(peer, Peer.Reload, :library_path) != old
    # The build that is loaded now has made none yet.
    assert native(peer, :live_counts, []) ==
             %{balancers: 0, snapshots: 0, values: 0, slots: 0, tickets: 0}

    assert_alive(peer, holder)
    assert Peer.run(peer, Peer.Reload, :use_everything, [holder]) == :ok

    # Old code is gone for good; what it made is still served, and freed at the end.
    Peer.run(peer, Peer.Reload, :purge)
    assert_alive(peer, holder)
    assert Peer.run(peer, Peer.Reload, :owner_dies, [holder]) == :ok
    Peer.run(peer, Peer.Reload, :drop, [holder])

    new_holder = Peer.run(peer, Peer.Reload, :hold_balancer)
    assert_alive(peer, new_holder)
    assert native(peer, :live_counts, []).balancers == 1
    Peer.run(peer, Peer.Reload, :drop, [new_holder])
    eventually(fn -> native(peer, :live_counts, []).balancers == 0 end)
  end

  test "people see the balancer that they have, where one of another build has its number",
       %{peer: peer, lb: old} do
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])
    new = Peer.run(peer, Peer.Reload, :hold_other)
    seen = Peer.run(peer, Peer.Reload, :described, [old])
    assert [_described, _shown] = Regex.scan(~r/^balancer 1  round_robin  2 ready/m, seen)
    seen = Peer.run(peer, Peer.Reload, :described, [new])
    assert [_described, _shown] = Regex.scan(~r/^balancer 1 new  random  1 ready/m, seen)
  end

  test "another build has the calls completed, and the work done, that the old one began",
       %{peer: peer} do
    holder = Peer.run(peer, Peer.Reload, :hold_call)
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])
    assert Peer.run(peer, Peer.Reload, :complete_held_call, [holder]) == :ok

    # And back, to a build that is in memory already.
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :load_again)
    Peer.run(peer, Peer.Reload, :drop, [holder])
  end

  test "a run that began in one build ends there, and those in it are in the build of each",
       %{peer: peer} do
    holder = Peer.run(peer, Peer.Reload, :hold_run)
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])
    assert Peer.run(peer, Peer.Reload, :run_in_held_run, [holder]) == :ok
    assert Peer.run(peer, Peer.Reload, :after_held_run, [holder]) == :ok
    Peer.run(peer, Peer.Reload, :drop, [holder])
  end

  test "another build has the clock moved that the old one made, and takes it for none of its own",
       %{peer: peer} do
    holder = Peer.run(peer, Peer.Reload, :hold_clock)
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])
    assert Peer.run(peer, Peer.Reload, :move_held_clock, [holder]) == :ok
    Peer.run(peer, Peer.Reload, :drop, [holder])
  end

  test "another build interns for balancers of the old one, and erases what they do not need",
       %{peer: peer} do
    holder = Peer.run(peer, Peer.Reload, :hold_interned)
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])
    Peer.run(peer, Peer.Reload, :purge)
    assert Peer.run(peer, Peer.Reload, :use_interned, [holder]) == :ok
    Peer.run(peer, Peer.Reload, :drop, [holder])
  end

  test "another build has no more interned than the old one leaves", %{peer: peer} do
    # A page of {:value, 1} and :b, of 27 words.
    holder = Peer.run(peer, Peer.Reload, :hold_interned)
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])

    for {total, interned} <- [{27 + 279, 0}, {27 + 280, 33}] do
      Peer.run(peer, Application, :put_env, [:grpc_lb, :interned, [total_words: total]])
      # A page of 16 + 33 * (4 + 4) words.
      assert Peer.run(peer, Peer.Interned, :list, [33]).interned == interned
    end

    Peer.run(peer, Peer.Reload, :drop, [holder])
  end

  test "another build has heard what balancers decide, those of the old one and its own", %{
    peer: peer
  } do
    holder = Peer.run(peer, Peer.Reload, :hold_full)
    directory = install_another_build()
    assert {:module, GrpcLb.Native} = Peer.run(peer, Peer.Reload, :upgrade_to, [directory])
    Peer.run(peer, Peer.Reload, :purge)
    assert Peer.run(peer, Peer.Reload, :hear_of_both, [holder]) == [old: 1, new: 1]
    assert Peer.run(peer, Peer.Reload, :unheard, [holder]) == {[], 0}
    Peer.run(peer, Peer.Reload, :drop, [holder])
  end

  test "deleting and purging the module ends its balancers, not the VM", %{peer: peer, lb: holder} do
    assert Peer.run(peer, Peer.Reload, :delete_and_load, [holder]) == :refused
    new_holder = Peer.run(peer, Peer.Reload, :hold_balancer)
    Peer.run(peer, Peer.Reload, :drop, [holder])
    assert_alive(peer, new_holder)
  end

  defp assert_alive(peer, holder) do
    assert Enum.sort(Peer.run(peer, Peer.Reload, :picks, [holder])) == [ok: :b, ok: "a"]
  end

  # A copy under another path is another library to the loader, with statics of its own.
  defp install_another_build do
    root = Path.join(System.tmp_dir!(), "grpc_lb_reload_#{System.unique_integer([:positive])}")
    directory = Path.join(root, "grpc_lb")
    on_exit(fn -> File.rm_rf!(root) end)

    for part <- ["ebin", "priv"] do
      File.mkdir_p!(directory)
      File.cp_r!(Application.app_dir(:grpc_lb, part), Path.join(directory, part))
    end

    directory
  end
end
