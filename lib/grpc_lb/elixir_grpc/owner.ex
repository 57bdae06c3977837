defmodule GrpcLb.ElixirGrpc.Owner do
  @moduledoc false
  # The process of elixir-grpc that a connection belongs to, as its holder sees it: it may not be there
  # yet, and a supervisor may start another in its place.

  @enforce_keys [:name]
  defstruct @enforce_keys ++ [:pid, :monitor, :ended_ms]

  # `ended_ms` says when the last one ended, by the VM's clock.
  @type t :: %__MODULE__{
          name: term(),
          pid: pid() | nil,
          monitor: reference() | nil,
          ended_ms: integer() | nil
        }

  # A supervisor that starts a killed connection anew does that at once.
  @grace_ms 1_000

  @doc "The process of the connection of this name, if there is one at the moment."
  @spec find(name :: term()) :: pid() | nil
  def find(name) do
    case Registry.lookup(GRPC.Client.Registry, {GRPC.Client.Connection, name}) do
      [{pid, _value}] -> pid
      [] -> nil
    end
  rescue
    # elixir-grpc is not running, or has just been stopped.
    ArgumentError -> nil
  end

  @doc """
  Watches the process of the connection, or, before there is one, the one that connects: then
  `:look_for_owner` comes a while later.
  """
  @spec watch(t(), caller :: pid()) :: t()
  def watch(owner, caller) do
    found = find(owner.name)
    if found == nil and caller != owner.pid, do: look_later()
    monitor(owner, found || caller)
  end

  @doc "It has ended: `:look_for_owner` comes when another one has had time to take its place."
  @spec ended(t()) :: t()
  def ended(owner) do
    ended_ms = now()
    look_later()
    # Made anew: one from before a hot upgrade may not have the field.
    struct!(__MODULE__, name: owner.name, ended_ms: ended_ms)
  end

  @doc """
  On `:look_for_owner`: `:gone` if nobody has taken its place. One that has just ended is looked for again:
  the message may be that of an earlier look.
  """
  @spec look(t()) :: {:ok, t()} | :gone
  def look(owner) do
    case find(owner.name) do
      nil ->
        if owner.pid == nil and now() - owner.ended_ms >= @grace_ms, do: :gone, else: {:ok, owner}

      pid ->
        {:ok, monitor(owner, pid)}
    end
  end

  defp monitor(%{pid: pid} = owner, pid), do: owner

  defp monitor(owner, pid) do
    if owner.monitor, do: Process.demonitor(owner.monitor, [:flush])
    %{owner | pid: pid, monitor: Process.monitor(pid)}
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp look_later, do: Process.send_after(self(), :look_for_owner, @grace_ms)
end
