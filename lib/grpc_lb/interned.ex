defmodule GrpcLb.Interned do
  # Values that are not copied. What is new in a list goes into :persistent_term before the list is given
  # to the native side, as the whole answer of a pick, which the native side returns as it is from
  # then on. Why that is sound: native/nif/src/vm/literal.rs.
  #
  # The values of one change are put together, in pages: one key, and later one erasure, which
  # costs a look at every process, for up to 64 of them. A page is erased when its last value is not
  # needed any more, so the one that stays keeps the others of its page; hence the bounds.
  #
  # The VM ends when its room for literals is full. So there is a budget for all pages that exist, and what does
  # not fit in is copied.
  #
  # Who is killed in between leaves nothing: a page is a native resource, which goes with its process.
  @moduledoc false

  alias GrpcLb.{Eraser, Native}

  # A page has so many values and words at most, or one value.
  @values 64
  @words 4_096

  # What a page takes beside its values: its key, and what the VM has for both. And for each value, its
  # `{:ok, value}`.
  @beside 16
  @answer 4

  # No value takes more than this part of the budget.
  @part 8

  @doc "Gives `new` the backends with their values interned."
  @spec new([Native.backend()], ([Native.backend()] -> result)) :: result when result: term()
  def new(backends, new), do: intern(nil, backends, Native.extents(backends), new)

  @doc """
  As `Native.reconcile/2`, with the values interned that are not listed already, if this balancer interns, as
  its summary says.
  """
  @spec reconcile(GrpcLb.balancer(), [Native.backend()], map()) ::
          {:ok, GrpcLb.changes()} | {:error, :closed}
  def reconcile(balancer, backends, summary) do
    if interns?(summary) do
      with :unfinished <- Native.reconcile_listed(balancer, backends),
           do: intern_new(balancer, backends, &Native.reconcile(balancer, &1))
    else
      Native.reconcile(balancer, backends)
    end
  end

  @doc """
  Gives `change` the backends of a change of this balancer. If it interns, those that are listed
  already with the same value are as they were, and the others have theirs interned.
  """
  @spec change(GrpcLb.balancer(), [Native.backend()], ([Native.backend()] -> result)) :: result
        when result: term()
  def change(balancer, backends, change) do
    if interns?(Native.summary(balancer)),
      do: intern_new(balancer, backends, change),
      else: change.(backends)
  end

  # A balancer that an earlier version of the library made says nothing of it.
  defp interns?(summary), do: match?(%{interned: true, closed: false}, summary)

  defp intern_new(balancer, backends, change),
    do: intern(balancer, backends, Native.extents_of_new(balancer, backends), change)

  defp intern(balancer, backends, extents, change) do
    pages = if extents == [], do: [], else: pages(balancer, extents, Eraser.most_words())
    places = Enum.flat_map(pages, fn {page, positions} -> places(page, positions) end)

    try do
      change.(refer(backends, places, 0))
    after
      for {page, _positions} <- pages, do: Native.let_go_of_page(page)
    end
  end

  # Until the budget is spent.
  defp pages(balancer, extents, most) do
    fit =
      for {_position, _value, words} = extent <- extents, words <= div(most, @part), do: extent

    fit
    |> chunks()
    |> Stream.map(&fill(balancer, &1, most))
    |> Enum.take_while(fn {page, _positions} -> page != :full end)
  end

  # In the order of the list.
  defp chunks(extents) do
    Enum.chunk_while(
      extents,
      {[], 0, 0},
      fn {_position, _value, words} = extent, {page, values, total} ->
        if values > 0 and (values == @values or total + words > @words),
          do: {:cont, Enum.reverse(page), {[extent], 1, words}},
          else: {:cont, {[extent | page], values + 1, total + words}}
      end,
      fn
        {[], _values, _total} -> {:cont, nil}
        {page, _values, _total} -> {:cont, Enum.reverse(page), nil}
      end
    )
  end

  defp fill(balancer, extents, most) do
    values = for {_position, value, _words} <- extents, do: value
    words = for {_, _, words} <- extents, reduce: @beside, do: (sum -> sum + words + @answer)
    positions = for {position, _value, _words} <- extents, do: position
    {Native.intern(balancer, values, words, most), positions}
  end

  defp places(page, positions),
    do: for({position, index} <- Enum.with_index(positions), do: {position, {page, index}})

  # What comes after the last of them stays as it is.
  defp refer([backend | backends], [{position, place} | places], position),
    do: [in_page(backend, place) | refer(backends, places, position + 1)]

  defp refer([backend | backends], [_ | _] = places, position),
    do: [backend | refer(backends, places, position + 1)]

  defp refer(backends, [], _position), do: backends

  defp in_page({id, _value}, place), do: {id, nil, %{interned: place}}
  defp in_page({id, _value, opts}, place), do: {id, nil, Map.put(opts, :interned, place)}
end
