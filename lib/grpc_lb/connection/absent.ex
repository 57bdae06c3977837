defmodule GrpcLb.Connection.Absent do
  @moduledoc false
  # The backoffs of addresses that have left the answer, for when they are in it again: or an answer that
  # flaps has a server dialled without end that is not there. Pure. Forgets one when the longest wait of
  # its backoff has passed.

  alias GrpcLb.Connection.{Backoff, Plan}

  @typedoc "Times are in milliseconds, of one clock."
  @type t :: %{Plan.key() => %{backoff: Backoff.t(), due: integer(), until: integer()}}

  @doc "None is remembered."
  @spec new() :: t()
  def new, do: %{}

  @doc """
  Remembers an address that leaves and has to wait until it is `due`. Where nothing has failed there is
  nothing to remember.

      iex> alias GrpcLb.Connection.{Absent, Backoff}
      iex> backoff = Backoff.new(%{initial: 10, multiplier: 2, jitter: 0, max: 100})
      iex> {10, failed} = Backoff.next(backoff)
      iex> absent = Absent.new() |> Absent.put("a", backoff, 5) |> Absent.put("b", failed, 5)
      iex> {nil, _absent} = Absent.pop(absent, "a")
      iex> {{^failed, 5}, _absent} = Absent.pop(absent, "b")
      iex> {Map.keys(Absent.prune(absent, 104)), Map.keys(Absent.prune(absent, 105))}
      {["b"], []}
  """
  @spec put(t(), Plan.key(), Backoff.t(), due :: integer()) :: t()
  def put(absent, _key, %{fresh?: true}, _due), do: absent

  def put(absent, key, backoff, due),
    do: Map.put(absent, key, %{backoff: backoff, due: due, until: due + backoff.max})

  @doc "The backoff of an address that is there again, if it is remembered, and when that is due."
  @spec pop(t(), Plan.key()) :: {{Backoff.t(), due :: integer()} | nil, t()}
  def pop(absent, key) do
    case Map.pop(absent, key) do
      {nil, absent} -> {nil, absent}
      {%{backoff: backoff, due: due}, absent} -> {{backoff, due}, absent}
    end
  end

  @doc "Forgets whom there is no need to remember any longer."
  @spec prune(t(), now :: integer()) :: t()
  def prune(absent, now), do: Map.reject(absent, fn {_key, %{until: until}} -> until <= now end)
end
