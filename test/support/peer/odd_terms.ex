defmodule GrpcLb.Test.Peer.OddTerms do
  @moduledoc """
  What `GrpcLb.OddTermsTest` has done in a VM of its own: a native function that cannot name a term
  can end the VM.
  """

  alias GrpcLb.Native

  @doc "The kinds of terms, by name. A native record is among them where OTP has them, from 29 on."
  def kinds, do: Keyword.keys(terms())

  @doc "How a wrong argument is refused, for each place where there can be one."
  def refusals(kind) do
    term = Keyword.fetch!(terms(), kind)
    for {place, call} <- wrong(term), do: {place, outcome(call)}
  end

  @doc """
  How a term is refused that is small only as long as what is in it is shared. Whoever copies it, or
  hashes or compares it with another, never comes to an end.
  """
  def refusals_of_shared do
    term = Enum.reduce(1..60, :x, fn _, shared -> {shared, shared} end)
    {:ok, lb} = GrpcLb.new({:weighted_round_robin, weights: :reported}, [:a])
    {:ok, :a, ticket} = GrpcLb.checkout(lb)

    places =
      natively(term, lb, ticket) ++
        in_policies(term) ++
        in_settings(term) ++
        in_reports(term, lb, ticket) ++
        kept(term, lb) ++
        listed(term) ++
        publicly(term, lb) ++ shown(term, lb) ++ names(term) ++ members(term)

    for {place, call} <- places, do: {place, outcome(call)}
  end

  # In each form that it can take, and beside what is right.
  defp kept(term, lb) do
    for {form, term} <- [tuple: term, list: [term], map: %{a: term}, key: %{term => 1}],
        {place, call} <- [
          new: fn -> GrpcLb.new(:random, [{term, 1}]) end,
          id: fn -> GrpcLb.reconcile(lb, [:a, {term, 1}]) end,
          value: fn -> GrpcLb.reconcile(lb, [:a, {1, term}]) end,
          bare: fn -> GrpcLb.add(lb, [%GrpcLb.Backend{id: term, value: term}]) end,
          remove: fn -> GrpcLb.remove(lb, [:a, term]) end,
          set_state: fn -> GrpcLb.set_state(lb, term, :ready) end,
          report: fn -> GrpcLb.report(lb, term, %{}) end,
          successes: fn -> GrpcLb.Native.successes(lb, term) end,
          leaving: fn -> GrpcLb.Native.reconcile_draining(lb, [{:a, :a}], [:a, term]) end,
          extent: fn -> GrpcLb.Native.extents([{term, 1}]) end,
          extent_of_new: fn -> GrpcLb.Native.extents_of_new(lb, [{term, 1}]) end,
          as_listed: fn -> as_listed(lb, term) end
        ],
        do: {{form, place}, call}
  end

  # That it is not as it is listed is found without a look at all of it; and then it is given to what refuses it.
  defp as_listed(lb, term) do
    :unfinished = GrpcLb.Native.reconcile_listed(lb, [{term, 1}])
    GrpcLb.Native.reconcile(lb, [{term, 1}])
  end

  # In the place of what is listed and begins like it: it is compared with that.
  defp listed(term) do
    like = Enum.reduce(1..10, :x, fn _, shared -> {shared, shared} end)
    {:ok, lb} = GrpcLb.new(:round_robin, [{like, 1}, {:b, like}, {[like], [like]}])

    for {form, term} <- [tuple: term, list: [term], map: %{a: term}],
        {place, call} <- [
          id: fn -> GrpcLb.reconcile(lb, [{term, 1}, {:b, like}]) end,
          value: fn -> GrpcLb.reconcile(lb, [{like, 1}, {:b, term}]) end,
          moved: fn -> GrpcLb.reconcile(lb, [{:b, like}, {term, 1}]) end,
          last: fn -> GrpcLb.reconcile(lb, [{like, 1}, {:b, like}, {[like], term}]) end,
          added: fn -> GrpcLb.add(lb, [{:b, term}]) end
        ],
        do: {{:listed, form, place}, call}
  end

  @doc "Keeps a term as an id and as a value, and finds it again."
  def keep(kind) do
    term = Keyword.fetch!(terms(), kind)

    for form <- [term, [term], {term, %{term => term}}] do
      {:ok, lb} = GrpcLb.new(:round_robin, [%GrpcLb.Backend{id: form, value: form}, :other])
      {:ok, ^form} = GrpcLb.pick(lb)
      {:ok, %{kept: 2}} = GrpcLb.reconcile(lb, [{form, :changed}, :other])
      %{backends: [%{id: ^form, value: :changed, state: :ready}, _other]} = GrpcLb.info(lb)
      :ok = GrpcLb.set_state(lb, form, :draining)
      :ok = GrpcLb.report(lb, form, %{})
      {:ok, :other} = GrpcLb.pick(lb)
      {:ok, %{added: 0, kept: 2}} = GrpcLb.add(lb, [{form, form}])
      {:ok, %{removed: 1, kept: 1}} = GrpcLb.remove(lb, [form])
      raised = outcome(fn -> GrpcLb.reconcile(lb, [{form, 1}, {form, 2}]) end)
      {:refused, "backends 0 and 1 have the same id"} = raised
      :ok = GrpcLb.close(lb)
    end

    :ok
  end

  defp outcome(call) do
    {:returned, call.()}
  rescue
    error in ArgumentError -> {:refused, error.message}
  end

  defp terms do
    <<131, node::binary>> = :erlang.term_to_binary(:other@nowhere)

    [
      bitstring: <<1::3>>,
      remote_pid: :erlang.binary_to_term(<<131, 88, node::binary, 1::32, 0::32, 1::32>>),
      remote_port: :erlang.binary_to_term(<<131, 89, node::binary, 1::32, 1::32>>),
      remote_reference:
        :erlang.binary_to_term(<<131, 90, 2::16, node::binary, 1::32, 1::32, 2::32>>),
      external_fun: &Enum.map/2,
      closure: fn -> node end,
      large_integer: Integer.pow(-2, 200),
      float: -1.5,
      improper_list: [1 | 2]
    ] ++ native_record()
  end

  # The module is not there to be called by its name before OTP 29.
  defp native_record do
    if Code.ensure_loaded?(:records) do
      fields = [x: 1, y: "two"]

      [
        native_record:
          apply(:records, :create, [__MODULE__, :point, fields, %{is_exported: true}])
      ]
    else
      []
    end
  end

  # Every place in an argument where the term is wrong, whichever it is.
  defp wrong(term) do
    {:ok, lb} = GrpcLb.new({:weighted_round_robin, weights: :reported}, [:a])
    {:ok, :a, ticket} = GrpcLb.checkout(lb)

    natively(term, lb, ticket) ++
      in_policies(term) ++ in_settings(term) ++ in_reports(term, lb, ticket) ++ publicly(term, lb)
  end

  defp natively(term, lb, ticket) do
    policy = {:random, %{}}
    settings = settings([])

    [
      pick: fn -> Native.pick(term) end,
      checkout: fn -> Native.checkout(term) end,
      first_response_ticket: fn -> Native.first_response(term) end,
      complete_ticket: fn -> Native.complete(term, :ok, nil) end,
      complete_outcome: fn -> Native.complete(ticket, term, nil) end,
      complete_report: fn -> Native.complete(ticket, :ok, term) end,
      complete_latency: fn -> Native.complete(ticket, :ok, nil, term) end,
      new_policy: fn -> Native.new(term, [], settings) end,
      new_backends: fn -> Native.new(policy, term, settings) end,
      new_settings: fn -> Native.new(policy, [], term) end,
      reconcile: fn -> Native.reconcile(term, []) end,
      reconcile_backends: fn -> Native.reconcile(lb, term) end,
      reconcile_backend: fn -> Native.reconcile(lb, [term]) end,
      reconcile_tail: fn -> Native.reconcile(lb, [{:a, :a, %{}} | term]) end,
      reconcile_options: fn -> Native.reconcile(lb, [{:a, :a, term}]) end,
      reconcile_owner: fn -> Native.reconcile(lb, [{:a, :a, %{owner: term}}]) end,
      reconcile_weight: fn -> Native.reconcile(lb, [{:a, :a, %{weight: term}}]) end,
      reconcile_draining: fn -> Native.reconcile_draining(term, [], []) end,
      reconcile_draining_ids: fn -> Native.reconcile_draining(lb, [], term) end,
      add: fn -> Native.add(term, []) end,
      add_backends: fn -> Native.add(lb, term) end,
      remove: fn -> Native.remove(term, []) end,
      remove_ids: fn -> Native.remove(lb, term) end,
      remove_tail: fn -> Native.remove(lb, [:a | term]) end,
      set_state: fn -> Native.set_state(term, :a, :ready) end,
      set_state_state: fn -> Native.set_state(lb, :a, term) end,
      report: fn -> Native.report(term, :a, "") end,
      report_report: fn -> Native.report(lb, :a, term) end,
      reconcile_state: fn -> Native.reconcile(lb, [{:a, :a, %{state: term}}]) end,
      configure: fn -> Native.configure(term, %{}) end,
      configure_changes: fn -> Native.configure(lb, term) end,
      configure_policy: fn -> Native.configure(lb, %{policy: term}) end,
      configure_limit: fn -> Native.configure(lb, %{max_requests: term}) end,
      summary: fn -> Native.summary(term) end,
      successes: fn -> Native.successes(term, :a) end,
      info: fn -> Native.info(term) end,
      close: fn -> Native.close(term) end,
      close_draining: fn -> Native.close_draining(term) end,
      advance: fn -> Native.advance(term, 0) end,
      advance_ms: fn -> Native.advance(Native.manual_clock(), term) end
    ]
  end

  defp in_policies(term) do
    name = {:policy_name, fn -> Native.new({term, %{}}, [], settings([])) end}
    options = {:policy_options, fn -> Native.new({:round_robin, term}, [], settings([])) end}

    each =
      for policy <- [
            :round_robin,
            :pick_first,
            :least_request,
            :peak_ewma,
            {:weighted_round_robin, weights: :reported}
          ],
          {name, options} = GrpcLb.Policy.to_native(policy),
          {option, _setting} <- options,
          # Any float will do there, and the float among the terms is below 0.
          do:
            {{name, option},
             fn -> Native.new({name, %{options | option => term}}, [], settings([])) end}

    [name, options | each]
  end

  defp in_settings(term) do
    detection = [success_rate: [], failure_percentage: [], consecutive_failures: 1]
    settings = settings(outlier_detection: detection, slow_start: [window: 1])
    # A name can be any of these.
    settings = Map.delete(settings, :name)
    new = &Native.new({:random, %{}}, [], &1)

    # A name is any term.
    for {path, wrong} <- replaced(Map.delete(settings, :name), term, []),
        do: {path, fn -> new.(wrong) end}
  end

  # In the other forms that are wrong, which a message has the term in.
  defp shown(term, lb) do
    [
      tuple: fn -> GrpcLb.new(:random, [{term, term, term, term}]) end,
      map: fn -> GrpcLb.new(:random, [%{id: term}]) end,
      improper: fn -> GrpcLb.add(lb, [:a | term]) end,
      option: fn -> GrpcLb.configure(lb, panic_threshold: [term]) end,
      integer: fn -> GrpcLb.configure(lb, max_requests: Bitwise.bsl(-1, 4_000_000)) end,
      run_fun: fn -> GrpcLb.run(lb, term) end,
      address: fn -> GrpcLb.Address.new!(term) end,
      address_id: fn -> GrpcLb.Address.id(%GrpcLb.Address{ip: term, port: 1}) end,
      target: fn -> GrpcLb.Target.parse!(term) end,
      targets: fn -> GrpcLb.Target.parse!({:static, [term]}) end,
      load_report: fn -> GrpcLb.LoadReport.to_native(term) end,
      log: fn -> GrpcLb.Log.level(term) end,
      dashboard: fn -> GrpcLb.Dashboard.start(term) end,
      dashboard_ip: fn -> GrpcLb.Dashboard.start(ip: term) end,
      top: fn -> GrpcLb.top(term) end
    ]
  end

  # Names of connections are keys of the registry, whose look-up hashes them.
  defp names(term) do
    connect = [transport: GrpcLb.Test.MyAppTransport, target: "ipv4:10.0.0.1:1"]
    mine = %GrpcLb.Connection{name: term, balancer: make_ref()}

    looked_up =
      for name <- [term, [term], %{term => 1}, mine],
          {place, call} <- [
            handle: &GrpcLb.Connection.handle/1,
            handle!: &GrpcLb.Connection.handle!/1,
            info: &GrpcLb.Connection.info/1,
            await_ready: &GrpcLb.Connection.await_ready(&1, 1),
            disconnect: &GrpcLb.Connection.disconnect/1
          ],
          do: {{:name, place}, fn -> call.(name) end}

    looked_up ++
      [
        name_balancer: fn -> GrpcLb.new(:random, [], name: term) end,
        name_start_link: fn -> GrpcLb.Connection.start_link([name: term] ++ connect) end,
        name_child_spec: fn -> GrpcLb.Connection.child_spec([name: term] ++ connect) end
      ]
  end

  defp members(term) do
    [
      pool_name: fn -> GrpcLb.Pool.start_link(name: term) end,
      pool_worker: fn -> GrpcLb.Pool.start_link(name: :odd, worker: term, size: 1) end,
      pool_join: fn -> GrpcLb.Pool.join(term) end,
      pool_pid: fn -> GrpcLb.Pool.join(:odd, term, []) end,
      pool_info: fn -> GrpcLb.Pool.info(term) end,
      pool_call: fn -> GrpcLb.Pool.call(term, :request) end
    ]
  end

  defp settings(opts), do: GrpcLb.Settings.to_native(opts, {:random, %{}})

  # The map as often as it has settings, with the term in the place of one after the other.
  defp replaced(map, term, path) do
    Enum.flat_map(map, fn {key, setting} ->
      here = {Enum.reverse([key | path]), %{map | key => term}}
      within = if is_map(setting), do: replaced(setting, term, [key | path]), else: []
      [here | for({path, wrong} <- within, do: {path, %{map | key => wrong}})]
    end)
  end

  defp in_reports(term, lb, ticket) do
    # A float is right where a number is.
    numbers = if is_float(term), do: [], else: [:cpu_utilization, :eps]

    fields =
      for(field <- numbers, do: %{field => term}) ++
        for wrong <- [term, %{term => 1.0}, if(is_float(term), do: nil, else: %{"a" => term})],
            wrong != nil,
            do: %{named_metrics: wrong}

    for report <- fields,
        {place, call} <- [
          complete: fn -> Native.complete(ticket, :ok, report) end,
          report: fn -> Native.report(lb, :a, report) end
        ],
        do: {{place, Map.keys(report)}, call}
  end

  defp publicly(term, lb) do
    {:ok, :a, ticket} = GrpcLb.checkout(lb)

    [
      public_new_policy: fn -> GrpcLb.new(term, []) end,
      public_new_options: fn -> GrpcLb.new({:random, term}, []) end,
      public_new_backends: fn -> GrpcLb.new(:random, term) end,
      public_new_opts: fn -> GrpcLb.new(:random, [], term) end,
      public_new_owner: fn -> GrpcLb.new(:random, [], owner: term) end,
      public_new_seed: fn -> GrpcLb.new(:random, [], seed: term) end,
      public_new_clock: fn -> GrpcLb.new(:random, [], clock: term) end,
      public_new_limit: fn -> GrpcLb.new(:random, [], max_requests: term) end,
      public_pick: fn -> GrpcLb.pick(term) end,
      public_pick_key: fn -> GrpcLb.pick(term, term) end,
      public_checkout: fn -> GrpcLb.checkout(term) end,
      public_checkout_key: fn -> GrpcLb.checkout(term, term) end,
      public_complete: fn -> GrpcLb.complete(term, :ok) end,
      public_complete_outcome: fn -> GrpcLb.complete(ticket, term) end,
      public_complete_report: fn -> GrpcLb.complete(ticket, :ok, load_report: term) end,
      public_complete_latency: fn -> GrpcLb.complete(ticket, :ok, latency: term) end,
      public_complete_opts: fn -> GrpcLb.complete(ticket, :ok, term) end,
      public_run: fn -> GrpcLb.run(term, fn value -> value end) end,
      public_run_opts: fn -> GrpcLb.run(lb, fn value -> value end, term) end,
      public_report: fn -> GrpcLb.report(term, :a, "") end,
      public_report_report: fn -> GrpcLb.report(lb, :a, term) end,
      public_set_state: fn -> GrpcLb.set_state(term, :a, :ready) end,
      public_set_state_state: fn -> GrpcLb.set_state(lb, :a, term) end,
      public_reconcile: fn -> GrpcLb.reconcile(term, []) end,
      public_reconcile_backends: fn -> GrpcLb.reconcile(lb, term) end,
      public_reconcile_owner: fn -> GrpcLb.reconcile(lb, [{:a, :a, owner: term}]) end,
      public_reconcile_weight: fn -> GrpcLb.reconcile(lb, [{:a, :a, weight: term}]) end,
      public_add: fn -> GrpcLb.add(term, []) end,
      public_add_backends: fn -> GrpcLb.add(lb, term) end,
      public_remove: fn -> GrpcLb.remove(term, []) end,
      public_remove_ids: fn -> GrpcLb.remove(lb, term) end,
      public_reconcile_state: fn -> GrpcLb.reconcile(lb, [{:a, :a, state: term}]) end,
      public_configure: fn -> GrpcLb.configure(term, []) end,
      public_configure_opts: fn -> GrpcLb.configure(lb, term) end,
      public_configure_policy: fn -> GrpcLb.configure(lb, policy: term) end,
      public_configure_limit: fn -> GrpcLb.configure(lb, max_requests: term) end,
      public_size: fn -> GrpcLb.size(term) end,
      public_closed?: fn -> GrpcLb.closed?(term) end,
      public_info: fn -> GrpcLb.info(term) end,
      public_close: fn -> GrpcLb.close(term) end
    ]
  end
end
