defmodule GrpcLb.Pool.View do
  @moduledoc false
  # What the events of a :pg scope say about the members of other nodes. Pure.
  #
  # A member is a group of its own in the scope, {pid, value, weight}, because :pg carries nothing
  # but pids and a group of all would be copied at every join. One that joins again with another
  # value is in two groups for a moment, and a node that connects just then hears of them in any
  # order. So a view knows all groups of a pid, and the member is gone with the last of them.

  alias GrpcLb.Pool.Membership

  @max_weight 0xFFFFFFFF

  @type t :: %{node() => %{pid() => [Membership.member(), ...]}}

  @spec new() :: t()
  def new, do: %{}

  @doc "Whether a group of the scope is a member; anybody can make other groups in it."
  defguard is_member(group)
           when is_tuple(group) and tuple_size(group) == 3 and is_pid(elem(group, 0)) and
                  is_integer(elem(group, 2)) and elem(group, 2) >= 1 and
                  elem(group, 2) <= @max_weight

  @spec join(t(), Membership.member()) :: t()
  def join(view, {pid, _value, _weight} = member) do
    pids = Map.get(view, node(pid), %{})
    members = pids |> Map.get(pid, []) |> List.delete(member)
    Map.put(view, node(pid), Map.put(pids, pid, [member | members]))
  end

  @spec leave(t(), Membership.member()) :: t()
  def leave(view, {pid, _value, _weight} = member) do
    with %{^pid => members} = pids <- Map.get(view, node(pid)) do
      case List.delete(members, member) do
        [] -> put_node(view, node(pid), Map.delete(pids, pid))
        left -> put_node(view, node(pid), Map.put(pids, pid, left))
      end
    else
      _unknown -> view
    end
  end

  defp put_node(view, node, pids) when pids == %{}, do: Map.delete(view, node)
  defp put_node(view, node, pids), do: Map.put(view, node, pids)

  @doc "Whether a node has members."
  @spec knows?(t(), node()) :: boolean()
  def knows?(view, node), do: Map.has_key?(view, node)

  @doc "Forgets a node. Returns the pids of its members too."
  @spec drop_node(t(), node()) :: {[pid()], t()}
  def drop_node(view, node) do
    {pids, view} = Map.pop(view, node, %{})
    {Map.keys(pids), view}
  end

  @doc "What a pid joined as last, or `nil`."
  @spec current(t(), pid()) :: Membership.member() | nil
  def current(view, pid) do
    with %{^pid => [member | _]} <- Map.get(view, node(pid)) do
      member
    else
      _unknown -> nil
    end
  end

  @spec pids(t()) :: [pid()]
  def pids(view), do: Enum.flat_map(view, fn {_node, pids} -> Map.keys(pids) end)
end
