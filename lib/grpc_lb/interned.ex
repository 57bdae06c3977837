defmodule GrpcLb.Interned do
  # Values that are not copied. What is new in a list goes into :persistent_term before the list is given
  # to the native side, as the whole answer of a pick, which the native side returns as it is from
  # then on. Why that is sound: native/nif/src/vm/literal.rs.
  #
  # The values of one change are put together, in pages: one key, and later one erasure, which
  # costs a look at every process, for up to 64 of them. A page is erased when its last value is not
  # needed any more, so the one that stays keeps the others of its page; hence the bounds.
  #
  # Who is killed in between leaves nothing: a page is a native resource, which goes with its process.
  @moduledoc false

  alias GrpcLb.{Eraser, Native}

  # A page has so many values and words at most, or one value.
  @values 64
  @words 4_096

  @doc "Gives `new` the backends with their values interned."
  @spec new([Native.backend()], ([Native.backend()] -> result)) :: result when result: term()
  def new(backends, new), do: intern(nil, backends, &Native.extents/1, new)

  @doc """
  Gives `change` the backends of a change of this balancer. If it interns, those that are listed
  already with the same value are as they were, and the others have theirs interned.
  """
  @spec change(GrpcLb.balancer(), [Native.backend()], ([Native.backend()] -> result)) :: result
        when result: term()
  def change(balancer, backends, change) do
    case Native.summary(balancer) do
      # A balancer that an earlier version of the library made says nothing of it.
      %{interned: true, closed: false} ->
        intern(balancer, backends, &Native.extents_of_new(balancer, &1), change)

      _copied ->
        change.(backends)
    end
  end

  defp intern(balancer, backends, extents, change) do
    if backends != [] and Eraser.keeps_up?() do
      pages = backends |> Enum.zip(extents.(backends)) |> pages()
      filled = Enum.map(pages, &fill(balancer, &1))

      try do
        change.(Enum.flat_map(filled, fn {_page, backends} -> backends end))
      after
        for {page, _backends} <- filled, page != nil, do: Native.let_go_of_page(page)
      end
    else
      change.(backends)
    end
  end

  # In the order of the list.
  defp pages(measured) do
    Enum.chunk_while(
      measured,
      {[], 0, 0},
      fn {_backend, words} = one, {page, values, total} ->
        {value, words} = if new?(one), do: {1, words}, else: {0, 0}

        if values > 0 and (values + value > @values or total + words > @words),
          do: {:cont, Enum.reverse(page), {[one], value, words}},
          else: {:cont, {[one | page], values + value, total + words}}
      end,
      fn {page, _values, _total} -> {:cont, Enum.reverse(page), nil} end
    )
  end

  # A backend that has no value as yet is not worth a page.
  defp new?({backend, words}), do: words != nil and elem(backend, 1) != nil

  defp fill(balancer, measured) do
    case Enum.filter(measured, &new?/1) do
      [] ->
        {nil, Enum.map(measured, &elem(&1, 0))}

      new ->
        values = for {backend, _words} <- new, do: elem(backend, 1)
        words = for {_backend, words} <- new, reduce: 0, do: (sum -> sum + words)
        page = Native.intern(balancer, values, words)
        {backends, _count} = Enum.map_reduce(measured, 0, &refer(page, &1, &2))
        {page, backends}
    end
  end

  defp refer(page, {backend, _words} = measured, index) do
    if new?(measured),
      do: {in_page(backend, {page, index}), index + 1},
      else: {backend, index}
  end

  defp in_page({id, _value}, place), do: {id, nil, %{interned: place}}
  defp in_page({id, _value, opts}, place), do: {id, nil, Map.put(opts, :interned, place)}
end
