defmodule GrpcLb.Keeper do
  @moduledoc false
  # Keeps what must outlive a crash of the process that works with it.
  #
  # A process, the holder, claims a key. On the first claim a keeper, a process of its own, makes the
  # thing; from then on it watches the holder:
  #
  #   * the holder gives it back, or ends with `:normal`, `:shutdown` or `{:shutdown, _}`: the thing
  #     is released
  #   * the holder crashes or is killed, and a supervisor had started it: the thing stays for 5 seconds
  #     for the process that this supervisor starts in its place. Nobody came, or the supervisor ended
  #     too: it is released
  #   * the holder crashes or is killed, and no supervisor had started it: it is released
  #   * a supervisor that took over cannot start its children: as if it had crashed
  #
  # What `make` links to the keeper, or gives the keeper as owner, goes when the keeper is killed. The
  # holder should monitor the keeper and end when it dies.

  use GenServer, restart: :temporary

  @takeover_ms 5_000
  @restart_ms 1_000
  @look_again_ms 10
  @answer_ms 500

  @typedoc "Under what a thing is kept: any term."
  @type key :: term()

  @typedoc "What is kept: what `make` returned."
  @type kept :: term()

  @doc """
  Claims what is kept under `key` for the calling process.

    * `{:ok, keeper, kept, :new}` - it was made for this claim
    * `{:ok, keeper, kept, {:taken_over, note}}` - the process that held it before crashed. `note`
      is what that one noted last, see `note/2`, or `nil`
    * `{:error, {:already_started, pid}}` - another process holds it, or the keeper waits for the
      process that is to take it over, and this is not the one

  `make` runs in the keeper, and so does `release`, which gets what is kept and a reason: the one of
  `release/2` or the one with which the holder ended. Exits when `make` raises.

      iex> make = fn -> :counters.new(1, []) end
      iex> release = fn counter, _reason -> :counters.put(counter, 1, -1) end
      iex> {:ok, keeper, counter, :new} = GrpcLb.Keeper.claim(:docs, make, release)
      iex> GrpcLb.Keeper.fetch(:docs)
      :error
      iex> GrpcLb.Keeper.publish(keeper)
      iex> GrpcLb.Keeper.fetch(:docs)
      {:ok, keeper, counter}
      iex> GrpcLb.Keeper.release(keeper, :shutdown)
      iex> {GrpcLb.Keeper.fetch(:docs), :counters.get(counter, 1)}
      {:error, -1}
  """
  @spec claim(key(), make :: (() -> kept()), release :: (kept(), reason :: term() -> any())) ::
          {:ok, keeper :: pid(), kept(), :new | {:taken_over, note :: term()}}
          | {:error, {:already_started, pid()}}
  def claim(key, make, release) do
    keeper = keeper(key, @restart_ms)

    try do
      GenServer.call(keeper, {:claim, parent(), make, release}, :infinity)
    catch
      # It had just released what it kept, and the next one has the key for itself.
      :exit, {reason, {GenServer, :call, _}} when reason in [:normal, :noproc] ->
        claim(key, make, release)
    end
  end

  # The supervisor of keepers can just be being started again. Nobody tells when it is there, and who
  # does not wait would use up the restarts of a supervisor of the user's.
  defp keeper(key, patience_ms) do
    case DynamicSupervisor.start_child(GrpcLb.Keepers, {__MODULE__, {key, self()}}) do
      {:ok, keeper} -> keeper
      {:error, {:already_started, keeper}} -> keeper
    end
  catch
    :exit, _no_supervisor when patience_ms > 0 ->
      Process.sleep(@look_again_ms)
      keeper(key, patience_ms - @look_again_ms)
  end

  @doc "Has `fetch/1` see what is kept, from now on. For the holder."
  @spec publish(keeper :: pid()) :: :ok
  def publish(keeper), do: GenServer.call(keeper, :publish, :infinity)

  @doc "Leaves a note for the process that takes over, in place of the last one. For the holder."
  @spec note(keeper :: pid(), term()) :: :ok
  def note(keeper, note), do: GenServer.cast(keeper, {:note, note})

  @doc """
  Releases what is kept; the key is free when this returns. For the holder.

  Does nothing if that has happened before.
  """
  @spec release(keeper :: pid(), reason :: term()) :: :ok
  def release(keeper, reason) do
    GenServer.call(keeper, {:release, reason}, :infinity)
  catch
    :exit, _it_has_ended -> :ok
  end

  @doc "Finds what is kept under `key` and published. Reads a table and asks no process."
  @spec fetch(key()) :: {:ok, keeper :: pid(), kept()} | :error
  def fetch(key) do
    case Registry.lookup(GrpcLb.Registry, {__MODULE__, key}) do
      [{keeper, {:published, kept}}] -> {:ok, keeper, kept}
      _other -> :error
    end
  end

  @doc "Finds the keeper of `key`, also of what is not published, or just being released."
  @spec whereis(key()) :: pid() | nil
  def whereis(key), do: GenServer.whereis(name(key))

  @doc """
  Finds the holder. While one is awaited to take over, this waits too.

    * `{:ok, pid}`
    * `{:error, :released}` - the keeper has ended
    * `{:error, :timeout}` - nobody took over within `timeout` milliseconds
  """
  @spec holder(keeper :: pid(), timeout()) :: {:ok, pid()} | {:error, :released | :timeout}
  def holder(keeper, timeout \\ :infinity) do
    # The first call is answered at once, if the keeper is not busy with a release, so that a timeout
    # of 0 finds a holder that is there.
    with :awaited <- GenServer.call(keeper, :holder, max(timeout, @answer_ms)) do
      GenServer.call(keeper, :await_holder, timeout)
    end
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, _it_has_ended -> {:error, :released}
  end

  @doc false
  def start_link({key, _holder} = arg) do
    GenServer.start_link(__MODULE__, arg, name: name(key, :unpublished))
  end

  defp name(key), do: {:via, Registry, {GrpcLb.Registry, {__MODULE__, key}}}
  defp name(key, value), do: {:via, Registry, {GrpcLb.Registry, {__MODULE__, key}, value}}

  defp parent do
    case Process.get(:"$ancestors") do
      [parent | _] -> GenServer.whereis(parent)
      _none -> nil
    end
  end

  # A keeper does not trap exits: what it made with a link, it is not to survive.
  @impl true
  def init({key, holder}) do
    {:ok,
     %{
       key: key,
       # {:held, pid, monitor} or {:orphaned, monitor of the parent, timer}
       status: {:held, holder, Process.monitor(holder)},
       parent: nil,
       kept: nil,
       release: nil,
       note: nil,
       taken_over?: false,
       waiting: []
     }}
  end

  @impl true
  def handle_call({:claim, parent, make, release}, {pid, _tag}, %{release: nil} = state) do
    kept = make.()
    state = %{state | kept: kept, release: release, parent: parent}
    {:reply, {:ok, self(), kept, :new}, held_by(state, pid)}
  end

  def handle_call({:claim, parent, _make, _release}, {pid, _tag} = from, state) do
    case state.status do
      {:orphaned, _monitor, _timer} when parent == state.parent ->
        state = held_by(%{state | taken_over?: true}, pid)
        {:reply, {:ok, self(), state.kept, {:taken_over, state.note}}, state}

      {:orphaned, monitor, _timer} ->
        if Process.alive?(state.parent) do
          {:reply, {:error, {:already_started, self()}}, state}
        else
          # The claim came before the news of the supervisor's end. The next try finds the key free.
          receive do
            {:DOWN, ^monitor, :process, _pid, reason} -> abandon(reason, state)
          end
        end

      {:held, holder, monitor} ->
        if Process.alive?(holder) do
          {:reply, {:error, {:already_started, holder}}, state}
        else
          # The claim came before the news of the holder's end, which decides.
          receive do
            {:DOWN, ^monitor, :process, _pid, reason} ->
              with {:noreply, state} <- holder_ended(reason, state) do
                handle_call({:claim, parent, nil, nil}, from, state)
              end
          end
        end
    end
  end

  def handle_call(:publish, _from, state) do
    Registry.update_value(GrpcLb.Registry, {__MODULE__, state.key}, fn _before ->
      {:published, state.kept}
    end)

    {:reply, :ok, state}
  end

  def handle_call({:release, reason}, _from, state) do
    release_kept(reason, state)
    {:stop, :normal, :ok, state}
  end

  def handle_call(question, _from, %{status: {:held, holder, _monitor}} = state)
      when question in [:holder, :await_holder] do
    {:reply, {:ok, holder}, state}
  end

  def handle_call(:holder, _from, state), do: {:reply, :awaited, state}

  def handle_call(:await_holder, from, state) do
    {:noreply, %{state | waiting: [from | state.waiting]}}
  end

  @impl true
  def handle_cast({:note, note}, state), do: {:noreply, %{state | note: note}}

  @impl true
  def handle_info({:DOWN, monitor, :process, _pid, reason}, state) do
    case state.status do
      {:held, _holder, ^monitor} -> holder_ended(reason, state)
      {:orphaned, ^monitor, _timer} -> abandon(reason, state)
      _of_before -> {:noreply, state}
    end
  end

  def handle_info({:timeout, timer, :takeover}, %{status: {:orphaned, _monitor, timer}} = state) do
    abandon(:not_taken_over, state)
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp held_by(state, pid) do
    case state.status do
      {:held, _never_claimed, monitor} ->
        Process.demonitor(monitor, [:flush])

      {:orphaned, monitor, timer} ->
        Process.demonitor(monitor, [:flush])
        :erlang.cancel_timer(timer)
    end

    Enum.each(state.waiting, &GenServer.reply(&1, {:ok, pid}))
    %{state | status: {:held, pid, Process.monitor(pid)}, waiting: []}
  end

  defp holder_ended(reason, state) do
    if crash?(reason, state) and supervisor?(state.parent) do
      timer = :erlang.start_timer(@takeover_ms, self(), :takeover)
      {:noreply, %{state | status: {:orphaned, Process.monitor(state.parent), timer}}}
    else
      abandon(reason, state)
    end
  end

  defp crash?(:normal, _state), do: false
  defp crash?(:shutdown, _state), do: false

  # A supervisor that ends so was told so by a child, and its own supervisor will try again.
  defp crash?({:shutdown, {:failed_to_start_child, _id, _reason}}, state), do: state.taken_over?
  defp crash?({:shutdown, _reason}, _state), do: false
  defp crash?(_other, _state), do: true

  # Supervisors say in their dictionary what they are; they have no other mark.
  defp supervisor?(pid) when is_pid(pid) and node(pid) == node() do
    case Process.info(pid, :dictionary) do
      {:dictionary, dictionary} ->
        match?({:supervisor, _, _}, dictionary[:"$initial_call"])

      nil ->
        false
    end
  end

  defp supervisor?(_none), do: false

  defp abandon(reason, state) do
    release_kept(reason, state)
    {:stop, :normal, state}
  end

  # The key is free only after that: what `release` undoes under a name, such as an entry in a table,
  # must not be the work of the next one that has it.
  defp release_kept(reason, state) do
    registered = {__MODULE__, state.key}
    Registry.update_value(GrpcLb.Registry, registered, fn _kept -> :releasing end)
    if state.release, do: state.release.(state.kept, reason)
    Registry.unregister(GrpcLb.Registry, registered)
  end
end
