defmodule GrpcLb.Stress.LongScheduleTest do
  # What runs on a normal scheduler takes no longer than a millisecond, whatever it is given.
  #
  # The VM says of every turn on a scheduler whether it took longer. It goes by the time that passes, so
  # that a turn also counts as long in which the machine held the scheduler up. What is bounded has a
  # short turn among many all the same, and what is not never has.
  use ExUnit.Case, async: false

  import GrpcLb.Test.Eventually

  alias GrpcLb.Native

  @moduletag :concurrency
  @moduletag timeout: 600_000

  # On a busy machine most turns are held up. What is not bounded is found by any number of tries.
  @tries 200

  # In words.
  @large_heap 200_000

  # Sees to it that a turn in which nothing but `call` is done is a short one at least once.
  #
  # Each try is a process of its own, with so much room that it does not collect garbage. It makes what
  # the call needs before its turn begins. The test waits then for what follows from the call.
  defp assert_short(prepare \\ fn -> nil end, call, follow \\ fn _prepared -> :ok end) do
    turns = Stream.map(1..@tries, fn _try -> longest(prepare, call, follow) end)

    assert Enum.any?(turns, &(&1 == nil)),
           "each of #{@tries} turns was long, the last of #{longest(prepare, call, follow)} ms"
  end

  # How many milliseconds a turn took, if it was a long one.
  defp longest(prepare, call, follow \\ fn _prepared -> :ok end) do
    test = self()
    # The shortest time that the VM takes.
    events = [long_schedule: 1, large_heap: @large_heap]
    before = :erlang.system_monitor(test, events)

    {pid, monitor} =
      :erlang.spawn_opt(
        fn ->
          prepared = prepare.()
          send(test, {:prepared, self()})
          receive(do: (:go -> :ok))
          call.(prepared)
          # What is prepared lives until here, and its end is no part of the call.
          send(test, {:called, self(), prepared != test})
          receive(do: (:end -> :ok))
        end,
        [:monitor, min_heap_size: 100_000]
      )

    receive(do: ({:prepared, ^pid} -> :ok))
    # The turn that prepared is over, and so is what was said of it.
    eventually(fn -> Process.info(pid, :status) == {:status, :waiting} end)
    _earlier = long_turns(pid)
    send(pid, :go)

    receive do
      {:called, ^pid, prepared} -> follow.(prepared)
      {:DOWN, ^monitor, :process, ^pid, reason} when reason != :normal -> exit(reason)
    end

    eventually(fn -> Process.info(pid, :status) in [{:status, :waiting}, nil] end)
    long = pid |> long_turns() |> Enum.max(fn -> nil end)
    send(pid, :end)
    receive(do: ({:DOWN, ^monitor, :process, ^pid, _reason} -> :ok))
    :erlang.system_monitor(before)
    long
  end

  # What the VM has said of this process so far. It says one thing after the other, so that what it says
  # now of a large heap comes last.
  defp long_turns(pid) do
    large = fn -> :erlang.garbage_collect() end
    {sentinel, monitor} = :erlang.spawn_opt(large, [:monitor, min_heap_size: 2 * @large_heap])
    receive(do: ({:monitor, ^sentinel, :large_heap, _info} -> :ok))
    receive(do: ({:DOWN, ^monitor, :process, ^sentinel, _reason} -> :ok))
    said(pid)
  end

  defp said(pid) do
    receive do
      {:monitor, ^pid, :long_schedule, info} -> [info[:timeout] | said(pid)]
      {:monitor, _other, _event, _info} -> said(pid)
    after
      0 -> []
    end
  end

  defp checked_out(policy, backends \\ [:a], opts \\ []) do
    {:ok, lb} = GrpcLb.new(policy, backends, opts)
    {:ok, _value, ticket} = GrpcLb.checkout(lb)
    {lb, ticket}
  end

  # A binary that does not begin at a byte.
  defp unaligned(bytes) do
    <<_bit::1, unaligned::bitstring>> = <<0::1, :binary.copy("a", bytes)::binary>>
    unaligned
  end

  test "a turn that is long is seen" do
    # What complete/3 keeps from it: the VM copies such a binary to have it looked at.
    prepare = fn -> {checked_out(:round_robin), unaligned(50_000_000)} end
    call = fn {{_lb, ticket}, binary} -> :ok = Native.end_call(ticket, :ok, binary, nil) end
    assert Enum.all?(1..3, fn _try -> longest(prepare, call) end)
  end

  describe "the end of a call" do
    @names for i <- 1..64, do: String.pad_trailing("named_metrics.#{i}", 255, "x")
    @reported {:weighted_round_robin, weights: :reported, metric_names: @names}

    test "with the largest report, and the most metrics that it is asked for" do
      metrics = Map.new(1..600, &{String.pad_leading("#{&1}", 5, "0"), 1.0})

      assert_large = fn report ->
        assert_short(fn -> checked_out(@reported) end, fn {_lb, ticket} ->
          :ok = Native.complete(ticket, :ok, report)
        end)
      end

      assert_large.(%{rps_fractional: 1.0, named_metrics: metrics})
      # Field 8 is a map: each of its entries has a name and a number.
      entry = fn i ->
        <<0x42, 16, 0x0A, 5, String.pad_leading("#{i}", 5, "0")::binary, 0x11, 1.0::float-little>>
      end

      assert_large.(IO.iodata_to_binary(for i <- 1..455, do: entry.(i)))
      assert_large.(:binary.copy(<<0x42, 0>>, 4_096))
    end

    test "with a report that is much too large" do
      # Made by the caller: what a message or a closure carries is copied by the VM.
      reports = [
        fn -> :binary.copy("a", 100_000_000) end,
        fn -> unaligned(100_000_000) end,
        fn -> %{named_metrics: %{unaligned(100_000_000) => 1.0}} end,
        fn -> %{named_metrics: %{:binary.copy("a", 100_000_000) => 1.0}} end,
        fn -> %{named_metrics: Map.new(1..100_000, &{"#{&1}", 1.0})} end,
        fn -> :erlang.make_tuple(4_000_000, 0) end,
        fn -> Enum.to_list(1..1_000_000) end
      ]

      for report <- reports, complete <- [&Native.complete/3, &complete_publicly/3] do
        assert_short(fn -> {checked_out(@reported), report.()} end, fn {{_lb, ticket}, report} ->
          try do
            complete.(ticket, :ok, report)
          rescue
            ArgumentError -> :ok
          end
        end)
      end
    end

    defp complete_publicly(ticket, outcome, report) when is_map(report) or is_binary(report),
      do: GrpcLb.complete(ticket, outcome, load_report: report)

    # Its error shows a part of the term, which Elixir makes, a piece at a time.
    defp complete_publicly(_ticket, _outcome, _neither), do: :ok

    test "that nobody holds any more, as others of its process" do
      assert_short(fn -> checked_out(:round_robin) end, fn {lb, ticket} ->
        :ok = GrpcLb.first_response(ticket)
        for _ <- 1..100, do: {:ok, :a, _ticket} = GrpcLb.checkout(lb)
        :erlang.garbage_collect()
      end)
    end
  end

  describe "a list that is offered" do
    test "is compared in turns, and one backend of it is replaced" do
      for n <- [2_000, 16_000], added <- [0, 1] do
        assert_short(
          fn ->
            list = for i <- 1..n, do: {i, %{id: i, tags: ["some", "value"]}}
            {:ok, lb} = GrpcLb.new(:round_robin, list)
            new = for i <- Enum.take([:new], added), do: {i, %{id: i, tags: ["some", "value"]}}
            {lb, new ++ Enum.drop(list, added)}
          end,
          fn {lb, list} -> {:ok, %{added: ^added}} = GrpcLb.reconcile(lb, list) end
        )
      end
    end

    test "is of many localities, or keyed by long texts" do
      text = String.duplicate("x", 65_536)

      for {policy, option} <- [
            {{:random, %{}}, &%{locality: "locality #{&1}"}},
            {{:maglev, %{table_size: 65_537, hash_balance_factor: nil}},
             fn _ -> %{hash_key: text} end}
          ] do
        assert_short(
          fn ->
            list = for i <- 1..2_000, do: {i, i, option.(i)}
            {:ok, lb} = Native.new(policy, list, %{})
            {lb, list}
          end,
          fn {lb, list} -> {:ok, %{kept: 2_000}} = Native.reconcile(lb, list) end
        )
      end

      assert_short(
        fn ->
          list = for i <- 1..16_000, do: {i, i, %{locality: "locality #{i}"}}
          {:ok, lb} = Native.new({:random, %{}}, list, %{})
          {lb, [{1, :other, %{locality: "locality 1"}} | tl(list)]}
        end,
        fn {lb, list} -> {:ok, %{kept: 16_000}} = Native.reconcile(lb, list) end
      )
    end

    test "leaves large values behind" do
      assert_short(
        fn ->
          value = fn i -> for j <- 1..5_000, do: :binary.copy(<<i::32, j::32>>, 9) end
          {:ok, lb} = GrpcLb.new(:round_robin, for(i <- 1..60, do: {i, value.(i)}))
          lb
        end,
        fn lb -> {:ok, %{removed: 60}} = GrpcLb.reconcile(lb, []) end
      )
    end

    test "is so long that its length is not asked" do
      {:ok, lb} = GrpcLb.new(:round_robin, [])

      assert_short(
        fn -> Enum.to_list(1..5_000_000) end,
        fn list -> :unfinished = Native.reconcile_listed(lb, list) end
      )
    end
  end

  describe "a list that is offered to a balancer that interns" do
    # As many as are compared in one turn, and more.
    for n <- [2_000, 16_000] do
      @n n
      test "of #{n}, is compared, and one backend of it is replaced" do
        assert_short(
          fn ->
            list = for i <- 1..@n, do: {i, %{id: i, tags: ["some", "value"]}}
            {:ok, lb} = GrpcLb.new(:round_robin, list, values: :interned)
            {lb, list, [{:new, %{id: :new, tags: ["some", "value"]}} | tl(list)]}
          end,
          fn {lb, list, other} ->
            {:ok, %{added: 0}} = GrpcLb.reconcile(lb, list)
            {:ok, %{added: 1}} = GrpcLb.reconcile(lb, other)
          end
        )
      end
    end

    test "has values, or ids, that are small only as long as they are shared" do
      shared = fn -> Enum.reduce(1..60, :x, fn _, shared -> {shared, shared} end) end

      for hostile <- [&{1, &1}, &{&1, 1}] do
        assert_short(
          fn ->
            list = for i <- 1..2_000, do: {i, {:value, i}}
            {:ok, lb} = GrpcLb.new(:round_robin, list, values: :interned)
            {lb, [hostile.(shared.()) | tl(list)]}
          end,
          fn {lb, list} -> :unfinished = Native.reconcile_listed(lb, list) end
        )
      end
    end

    test "has large values, which are listed already" do
      assert_short(
        fn ->
          list = for i <- 1..100, do: {i, Enum.to_list(i..(i + 2_000))}
          {:ok, lb} = GrpcLb.new(:round_robin, list, values: :interned)
          # Equal up to its end.
          other = Enum.to_list(1..2_000) ++ [:other]
          {lb, for({i, value} <- list, do: {i, Enum.map(value, & &1)}), [{1, other} | tl(list)]}
        end,
        fn {lb, list, other} ->
          {:ok, %{kept: 100}} = GrpcLb.reconcile(lb, list)
          [{0, _value, _words}] = Native.extents_of_new(lb, other)
        end
      )
    end
  end

  describe "a list of half a million" do
    @n 500_000

    test "that are all full has a call refused" do
      {:ok, lb} = GrpcLb.new(:round_robin, Enum.to_list(1..@n), max_requests_per_backend: 0)
      assert_short(fn _ -> {:error, :overloaded} = GrpcLb.checkout(lb) end)
      {:ok, lb} = GrpcLb.new(:random, Enum.to_list(1..@n), max_requests_per_backend: 0)
      assert_short(fn _ -> {:error, :overloaded} = GrpcLb.checkout(lb) end)
      assert_short(fn _ -> {:error, :unfinished} = Native.checkout_except(lb, [1]) end)
      assert {:error, :overloaded} = Native.checkout_except_thoroughly(lb, [1])
    end

    test "of values has those passed over who have them" do
      {:ok, lb} = GrpcLb.new(:round_robin, Enum.to_list(1..300), max_requests: 1)
      {:ok, _value, ticket} = GrpcLb.checkout(lb)
      values = Enum.to_list(2..@n)
      slots = Native.slots()
      assert_short(fn _ -> {:error, :unfinished} = Native.checkout_except(lb, values) end)
      begin = fn _ -> {:error, :unfinished} = Native.begin_call_except(lb, slots, values, nil) end
      assert_short(begin)
      GrpcLb.complete(ticket, :ok)
      assert {:ok, 1, _ticket} = Native.checkout_except_thoroughly(lb, values)
    end

    test "of values has those passed over in turn who have them" do
      opts = [max_requests: 1, checkout_wait: 60_000]
      {:ok, lb} = GrpcLb.new(:round_robin, Enum.to_list(1..300), opts)
      {:ok, _value, ticket} = GrpcLb.checkout(lb)
      {:ok, waiter, _place, _ms} = Native.line_up(lb)
      values = Enum.to_list(2..@n)
      assert_short(fn _ -> {:error, :overloaded} = Native.checkout_in_turn(waiter, values) end)
      GrpcLb.complete(ticket, :ok)
      assert {:ok, 1, _ticket} = Native.checkout_in_turn(waiter, values)
    end

    test "of which most are full, or down, has a call with a key led on" do
      backends = Enum.map(1..20_000, &"backend #{&1}")
      ring = {:ring_hash, min_ring_size: 1_000_000, max_ring_size: 1_000_000}
      table = {:maglev, table_size: 1_000_003}

      for policy <- [ring, table], factor <- [nil, 100] do
        {name, options} = policy
        policy = {name, [hash_balance_factor: factor] ++ options}
        {:ok, lb} = GrpcLb.new(policy, backends, max_requests_per_backend: 0)
        assert_short(fn _ -> {:error, :overloaded} = GrpcLb.checkout(lb, "user 7") end)

        assert {:error, :overloaded} =
                 Native.checkout_except_thoroughly(lb, ["backend 1"], "user 7")

        down = for id <- tl(backends), do: {id, id, state: :connecting}
        {:ok, _changes} = GrpcLb.reconcile(lb, [hd(backends) | down])
        assert_short(fn _ -> for n <- 1..100, do: {:ok, "backend 1"} = GrpcLb.pick(lb, n) end)
      end
    end

    test "of deaths has tables built, and who dies waits for none" do
      test = self()

      assert_short(
        fn ->
          backends = for i <- 1..999, do: {"backend #{i}", i, owner: self()}
          opts = [on_owner_death: :remove]
          {:ok, lb} = GrpcLb.new({:maglev, table_size: 1_000_003}, ["last" | backends], opts)
          lb
        end,
        fn lb ->
          send(test, {:called, self(), lb})
          exit(:normal)
        end,
        fn lb -> eventually(fn -> GrpcLb.size(lb) == 1 end) end
      )
    end

    test "whose owner has just died is picked from" do
      for call <- [&GrpcLb.pick/1, &GrpcLb.checkout/1] do
        assert_short(
          fn ->
            owner = spawn(fn -> receive(do: (:end -> :ok)) end)
            backends = for i <- 1..@n, do: {i, i, owner: owner}
            {:ok, lb} = GrpcLb.new(:round_robin, backends)
            monitor = Process.monitor(owner)
            send(owner, :end)
            receive(do: ({:DOWN, ^monitor, :process, ^owner, _reason} -> lb))
          end,
          fn lb -> until_none(lb, call) end
        )
      end
    end

    # Each in a turn of its own.
    defp until_none(lb, call) do
      :erlang.yield()
      unless call.(lb) == {:error, :no_backends}, do: until_none(lb, call)
    end

    test "is asked for its size, and is dropped" do
      prepare = fn ->
        {:ok, lb} = GrpcLb.new(:round_robin, for(i <- 1..@n, do: {i, {i}}))
        lb
      end

      assert_short(prepare, fn lb ->
        @n = GrpcLb.size(lb)
        false = GrpcLb.closed?(lb)
        %{tickets: _} = Native.live_counts()
      end)

      # Nobody holds it any more when the garbage is collected.
      assert_short(
        fn -> Process.put(:lb, prepare.()) end,
        fn nil ->
          Process.delete(:lb)
          :erlang.garbage_collect()
        end
      )
    end
  end

  # Before OTP 27 the arguments of what runs on a dirty scheduler are copied by a normal one.
  describe "what is copied" do
    # How long each turn takes says little here: in hundreds of them the machine holds one up for sure.
    test "is a long list, in many turns" do
      {:ok, lb} = GrpcLb.new(:round_robin, [])
      backends = for i <- 1..100_000, do: {i, {:value, i}, %{weight: 1}}
      test = self()

      {:ok, counter} =
        Task.start_link(fn ->
          1 = :erlang.trace(test, true, [:running])
          send(test, :traced)
          count_turns(0, test)
        end)

      receive(do: (:traced -> :ok))
      {:ok, %{added: 100_000}} = Native.reconcile(lb, backends)
      delivered = :erlang.trace_delivered(test)
      receive(do: ({:trace_delivered, ^test, ^delivered} -> :ok))
      send(counter, :tell)
      turns = receive(do: ({:turns, turns} -> turns))
      # In order, and whole.
      assert for(%{id: id, value: {:value, id}} <- GrpcLb.info(lb).backends, do: id) ==
               Enum.to_list(1..100_000)

      if String.to_integer(System.otp_release()) < 27, do: assert(turns > 300)
    end

    defp count_turns(n, test) do
      receive do
        {:trace, ^test, :out, _where} -> count_turns(n + 1, test)
        :tell -> send(test, {:turns, n})
        _other -> count_turns(n, test)
      end
    end

    test "is small only as long as it is shared" do
      shared = fn -> Enum.reduce(1..60, :x, fn _, shared -> {shared, shared} end) end

      for name <- [:info, :close, :tick_by] do
        assert_short(shared, fn shared ->
          try do
            case name do
              :info -> GrpcLb.info(shared)
              :close -> GrpcLb.close(shared)
              :tick_by -> Native.advance(shared, shared)
            end
          rescue
            ArgumentError -> :ok
          end
        end)
      end
    end
  end

  test "a pick by weights, however they differ" do
    backends = [{0, 0, weight: 0xFFFFFFFF} | for(i <- 1..100_000, do: {i, i, weight: 1})]

    for policy <- [:weighted_round_robin, :least_request, :random, :peak_ewma] do
      {:ok, lb} = GrpcLb.new(policy, backends)
      assert_short(fn _prepared -> {:ok, _id} = GrpcLb.pick(lb) end)
    end
  end
end
