defmodule GrpcLb.Slots do
  @moduledoc false
  # Calls that one process begins and ends. They take slots in one native resource of that process, which
  # costs a tenth of a ticket each; the VM ends what is left in it when the process dies.

  alias GrpcLb.{Key, Native}

  @typedoc "A call in flight: a slot of the calling process, or a ticket where there can be none."
  @type call :: Native.slot() | GrpcLb.ticket()

  @doc """
  The slots of the calling process, made at its first call.

  To be held until the call has ended: what is in the process dictionary can be erased meanwhile.
  """
  @spec own() :: Native.slots()
  def own do
    case :erlang.get(__MODULE__) do
      {pid, slots} when pid == self() -> slots
      # None, or those of a process whose dictionary this one has taken over.
      _none -> renew()
    end
  end

  defp renew do
    slots = Native.slots()
    Process.put(__MODULE__, {self(), slots})
    slots
  end

  @doc "As `GrpcLb.checkout/2`, for a call that this process ends with `finish/4`."
  @spec begin(GrpcLb.balancer(), Native.slots(), key :: term()) ::
          {:ok, value :: term(), call()} | {:error, :no_backends | :closed | :overloaded}
  def begin(balancer, slots, nil) do
    case Native.begin_call(balancer, slots) do
      {:error, :other_build} -> checkout(balancer, nil)
      begun -> begun
    end
  end

  def begin(balancer, slots, key) do
    case Native.begin_call(balancer, slots, Key.to_native(key)) do
      {:error, :other_build} -> checkout(balancer, key)
      begun -> begun
    end
  end

  @doc "As `begin/3`, of backends whose value is none of these; or `{:error, :unfinished}`."
  @spec begin_except(GrpcLb.balancer(), Native.slots(), values :: [term()], Native.key()) ::
          {:ok, value :: term(), call()}
          | {:error, :no_backends | :closed | :overloaded | :unfinished}
  def begin_except(balancer, slots, values, key) do
    case Native.begin_call_except(balancer, slots, values, key) do
      {:error, :other_build} ->
        renew()
        # Who goes on does so with a ticket.
        {:error, :unfinished}

      begun ->
        begun
    end
  end

  # The library was replaced since the slots were made. Calls in them end there.
  defp checkout(balancer, key) do
    renew()
    GrpcLb.checkout(balancer, key)
  end

  @doc "Ends a call, as `GrpcLb.Native.end_call/4`, which does not bound the report."
  @spec finish(Native.slots(), call(), Native.outcome(), Native.load_report() | nil) ::
          :ok | {:error, :already_completed}
  def finish(slots, slot, outcome, report) when is_integer(slot),
    do: Native.end_call(slots, slot, outcome, report, nil)

  def finish(_slots, ticket, outcome, report), do: Native.end_call(ticket, outcome, report, nil)
end
