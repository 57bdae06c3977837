defmodule GrpcLb.Backend do
  @moduledoc """
  One thing that can be picked: who it is, and what a pick hands out for it.

  Wherever a list of backends is taken, each can be written in one of four forms:

    * a `%GrpcLb.Backend{}`
    * `{id, value}`
    * `{id, value, opts}`, with the fields below as options
    * anything else: a value that is its own id

  A tuple of two or three elements is always read as the second or third form, so
  `{"10.0.0.1", 50051}` is the value `50051` under the id `"10.0.0.1"`. To balance over such tuples
  themselves, write `{address, address}`.

  ## Fields

    * `:id` - its identity, any term, unique within a list. What is counted for an id stays with
      it for as long as it is listed.
    * `:value` - what `GrpcLb.pick/1` returns, any term. Atoms, local pids, local ports, small
      integers and `[]` cost nothing to hand out; other terms are copied to the caller, like a
      message. A value that holds the balancer's own reference keeps the balancer alive until it is
      closed.
    * `:owner` - a pid of this node, or `nil`, the default. When it dies, the backend is out of the
      rotation, without any process having to notice.
    * `:weight` - its share beside the others, an integer from 1 to 4294967295, by default 1: what
      counts is how the weights of a list relate. `:weighted_round_robin` and `:random` pick a backend
      of weight 3 three times as often as one of weight 1; `:least_request` and `:peak_ewma` give it
      three times the load before they prefer another. `:round_robin` and `:pick_first` treat all
      alike, and `{:weighted_round_robin, weights: :reported}` makes its own weights.
  """

  @enforce_keys [:id, :value]
  defstruct [:id, :value, owner: nil, weight: 1]

  @type t :: %__MODULE__{
          id: term(),
          value: term(),
          owner: pid() | nil,
          weight: pos_integer()
        }

  @typedoc "A backend in one of the forms in which it can be written."
  @type form :: t() | {id :: term(), value :: term()} | {term(), term(), keyword()} | term()

  @max_weight 0xFFFFFFFF

  @doc """
  Turns a list of backends in any form into what `GrpcLb.Native` takes.

  Raises `ArgumentError`, naming the position in the list, when one is malformed.

      iex> GrpcLb.Backend.to_native([:a, {:b, 2}, {:c, 3, weight: 5}])
      [{:a, :a, nil, 1}, {:b, 2, nil, 1}, {:c, 3, nil, 5}]

      iex> GrpcLb.Backend.to_native([:a, {:b, 2, weight: 0}])
      ** (ArgumentError) backend 1: weight must be an integer from 1 to 4294967295, got: 0
  """
  @spec to_native([form()]) :: [GrpcLb.Native.backend()]
  def to_native(backends), do: to_native(backends, backends, 0, [])

  defp to_native([form | rest], all, position, done) do
    to_native(rest, all, position + 1, [one_to_native(form, position) | done])
  end

  defp to_native([], _all, _position, done), do: Enum.reverse(done)

  defp to_native(_not_a_list, all, _position, _done) do
    raise ArgumentError, "backends must be a proper list, got: #{inspect(all)}"
  end

  defp one_to_native(%__MODULE__{} = backend, position) do
    {backend.id, backend.value, owner!(backend.owner, position),
     weight!(backend.weight, position)}
  end

  defp one_to_native({id, value}, _position), do: {id, value, nil, 1}

  defp one_to_native({id, value, opts} = form, position) do
    unless Keyword.keyword?(opts) do
      raise ArgumentError,
            "backend #{position}: expected {id, value, opts} with a keyword list of options, " <>
              "got: #{inspect(form)}"
    end

    # Of an option that is given twice the first one counts.
    Enum.reduce(Enum.reverse(opts), {id, value, nil, 1}, fn
      {:owner, owner}, {id, value, _owner, weight} ->
        {id, value, owner!(owner, position), weight}

      {:weight, weight}, {id, value, owner, _weight} ->
        {id, value, owner, weight!(weight, position)}

      {option, _setting}, _backend ->
        raise ArgumentError,
              "backend #{position}: unknown option #{inspect(option)}, " <>
                "expected :owner or :weight"
    end)
  end

  defp one_to_native(value, _position), do: {value, value, nil, 1}

  defp owner!(nil, _position), do: nil
  defp owner!(owner, _position) when is_pid(owner) and node(owner) == node(), do: owner

  defp owner!(owner, position) do
    raise ArgumentError,
          "backend #{position}: owner must be nil or a pid of this node, got: #{inspect(owner)}"
  end

  defp weight!(weight, _position) when is_integer(weight) and weight in 1..@max_weight, do: weight

  defp weight!(weight, position) do
    raise ArgumentError,
          "backend #{position}: weight must be an integer from 1 to #{@max_weight}, " <>
            "got: #{inspect(weight)}"
  end
end
