defmodule GrpcLb.Pool.ViewTest do
  use ExUnit.Case, async: true

  alias GrpcLb.Pool.View

  require View

  # Pure: pids of this node stand for those of others.
  defp pid(n), do: :erlang.list_to_pid(~c"<0.#{n}.0>")

  defp heard(events) do
    Enum.reduce(events, View.new(), fn
      {:join, member}, view -> View.join(view, member)
      {:leave, member}, view -> View.leave(view, member)
    end)
  end

  test "a member is current from its join to its leave" do
    one = {pid(1), :a, 1}
    two = {pid(2), :b, 2}
    view = heard(join: one, join: two)
    assert View.current(view, pid(1)) == one
    assert Enum.sort(View.pids(view)) == [pid(1), pid(2)]
    view = View.leave(view, one)
    assert View.current(view, pid(1)) == nil
    assert View.leave(view, two) == View.new()
  end

  test "what comes last is current, whatever the order in which the rest comes" do
    {old, new} = {{pid(1), :old, 1}, {pid(1), :new, 1}}
    assert View.current(heard(join: old, join: new), pid(1)) == new
    assert View.current(heard(join: old, join: new, leave: old), pid(1)) == new
    assert View.current(heard(join: new, join: old, leave: old), pid(1)) == new
    assert heard(join: new, join: old, leave: old, leave: new) == View.new()
  end

  test "a join that is heard twice is one, a leave of nobody none" do
    member = {pid(1), :a, 1}
    assert heard(join: member, join: member, leave: member) == View.new()
    assert heard(leave: member) == View.new()
    assert heard(join: member, leave: {pid(2), :a, 1}) == heard(join: member)
    assert heard(join: member, leave: {pid(1), :other, 1}) == heard(join: member)
  end

  test "a node is forgotten with all of its members" do
    view = heard(join: {pid(1), :a, 1}, join: {pid(2), :b, 1}, join: {pid(2), :c, 1})
    assert View.drop_node(view, :other@node) == {[], view}
    {pids, view} = View.drop_node(view, node())
    assert Enum.sort(pids) == [pid(1), pid(2)]
    assert view == View.new()
  end

  test "not every group is a member" do
    assert View.is_member({pid(1), :any, 1})
    assert View.is_member({pid(1), nil, 0xFFFFFFFF})

    for group <- [:group, {pid(1), 1}, {:pid, 1, 1}, {pid(1), 1, 0}, {pid(1), 1, 1.0}, []] do
      refute View.is_member(group)
    end

    refute View.is_member({pid(1), 1, 0x100000000})
  end
end
