defmodule GrpcLb.Eraser do
  # Erases from :persistent_term what was interned and is not needed any more. The VM looks at every
  # process for each erasure, so they are done in batches, with a bound in time, number and words.
  #
  # What is to be erased is noted on the native side. So it waits while this process is down, and
  # it is noted until it is erased: what is erased twice is gone already, and no key is used twice.
  @moduledoc false

  use GenServer

  alias GrpcLb.{Native, Options}

  @options [
    every: [type: {:ms, 1}, default: 60_000],
    pages: [type: {:integer, from: 1, to: 1_000_000}, default: 100],
    words: [type: {:integer, from: 1, to: 0xFFFFFFFF}, default: 4_194_304],
    total_words: [type: {:integer, from: 1, to: 0xFFFFFFFF}, default: 16_777_216]
  ]
  @prepared Options.prepare(@options)

  @spec start_link([]) :: GenServer.on_start()
  def start_link([]), do: GenServer.start_link(__MODULE__, [], name: __MODULE__)

  @doc """
  How many words all that is interned may take, waiting or not: what the VM has for it has an end, and so
  has the VM then. None as long as more waits to be erased than one batch erases.
  """
  @spec most_words() :: non_neg_integer()
  def most_words do
    %{pages: batch_pages, words: batch_words, total_words: total} = settings()
    {pages, words} = waiting()
    if pages <= batch_pages and words <= batch_words, do: total, else: 0
  end

  @doc "How many pages wait to be erased, and the words that they take."
  @spec waiting() :: {pages :: non_neg_integer(), words :: non_neg_integer()}
  def waiting do
    for {pages, words, _none} <- Native.retired_pages(0), reduce: {0, 0} do
      {all_pages, all_words} -> {all_pages + pages, all_words + words}
    end
  end

  @doc "Erases at once all that is not needed any more, in how many batches that may be."
  @spec erase() :: :ok
  def erase, do: GenServer.call(__MODULE__, :erase, :infinity)

  @impl true
  def init([]), do: {:ok, wait()}

  @impl true
  def handle_call(:erase, _from, timer) do
    erase_all()
    {:reply, :ok, timer}
  end

  @impl true
  def handle_info({:timeout, timer, :erase}, timer) do
    erase_batch()
    {:noreply, wait()}
  end

  def handle_info(_stray, timer), do: {:noreply, timer}

  defp wait, do: :erlang.start_timer(settings().every, self(), :erase)

  defp erase_all do
    if erase_batch() > 0, do: erase_all()
  end

  # Says how many it erased. The first page goes whatever its size. The library names some hundreds at a time.
  defp erase_batch({before, _words} = so_far \\ {0, 0}) do
    %{pages: most_pages, words: most_words} = settings()

    retired =
      for {_pages, _words, first} <- Native.retired_pages(most_pages), page <- first, do: page

    {erased, _words} =
      sum =
      Enum.reduce_while(retired, so_far, fn
        {_number, words}, {pages, total}
        when pages == most_pages or (pages > 0 and total + words > most_words) ->
          {:halt, {pages, total}}

        {number, words}, {pages, total} ->
          :persistent_term.erase({GrpcLb.Interned, number})
          Native.forget_page(number)
          {:cont, {pages + 1, total + words}}
      end)

    if retired != [] and erased - before == length(retired), do: erase_batch(sum), else: erased
  end

  defp settings do
    :grpc_lb
    |> Application.get_env(:interned, [])
    |> Options.validate!(@prepared, "the configuration :interned of :grpc_lb")
  end
end
