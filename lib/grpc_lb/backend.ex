defmodule GrpcLb.Backend do
  alias GrpcLb.{Key, Options, Text}

  # In the order of the documentation.
  @options [
    owner: [
      type: {:or, :local_pid, nil},
      default: nil,
      doc: """
      a pid of this node. When it dies, the backend is out of the rotation, without any process having
      to notice. By default none.
      """
    ],
    weight: [
      type: {:integer, from: 0, to: 0xFFFFFFFF},
      default: 1,
      doc: """
      its share beside the others, an integer from 0 to 4294967295: what counts is how the weights of
      a list relate. `:weighted_round_robin` and `:random` pick a backend of weight 3 three times as
      often as one of weight 1, and so does `:least_request` while nothing is in flight;
      `:least_request` and `:peak_ewma` give it three times the load before they prefer another.
      `:round_robin` and `:pick_first` treat all alike, and `{:weighted_round_robin, weights: :reported}`
      makes its own weights. With every policy, those too, a backend of weight 0 is listed, and is not
      picked while another is ready, be that full: as a spare, or before its first traffic. If there are only such to
      pick from, they are picked as if each had weight 1.
      """
    ],
    priority: [
      type: {:integer, from: 0, to: 0xFFFFFFFF},
      default: 0,
      doc: """
      an integer from 0 to 4294967295, the first to serve the lowest: as long as a backend of the first
      priority can be picked, none of the others is (gRFC A56, without the timer, which is for who
      connects). A call for which no backend of it has room goes to the next. With
      `:overprovisioning_factor` of `GrpcLb.new/3` the next one helps out before that.
      """
    ],
    locality: [
      type: {:or, {:reader, "a string of 1 to 255 bytes", &__MODULE__.locality/1}, nil},
      default: nil,
      doc: """
      where it is, a zone for example: a string of 1 to 255 bytes. The localities of one priority share
      its picks as `:locality_weights` of `GrpcLb.new/3` says, however many backends each has. Backends
      without one are one locality, too.
      """
    ],
    state: [
      type: {:or, {:one_of, [:ready, :connecting, :transient_failure, :draining]}, nil},
      default: nil,
      doc: """
      what `GrpcLb.set_state/3` would say of it: `:ready`, `:connecting`, `:transient_failure` or
      `:draining`. By default it keeps its state, and is `:ready` when it is new in the list.
      """
    ],
    hash_key: [
      type: {:or, {:reader, "a binary of #{Key.max_bytes()} bytes at most", &Key.text/1}, nil},
      default: nil,
      doc: """
      for policies that hash and for `:subset` of `GrpcLb.new/3`, the text by which the backend finds its place among the others, such as
      `"10.0.0.1:50051"`: the same one wherever calls are to be spread as here. By default its id if that is
      a binary, as gRPC and Envoy take an address; of any other id the external form, see `GrpcLb.pick/2`,
      which other nodes of the BEAM agree about. Two with the same text have one place: on a ring the
      first in the list is chosen while it can be.
      """
    ]
  ]

  @moduledoc """
  One thing that can be picked: who it is, and what a pick hands out for it.

  A list of backends takes each in one of four forms:

    * a `%GrpcLb.Backend{}`
    * `{id, value}`
    * `{id, value, opts}`, with the options below
    * anything else: a value that is its own id

  A tuple of two or three elements is always read as the second or third form, so
  `{"10.0.0.1", 50051}` is the value `50051` under the id `"10.0.0.1"`. To balance over such tuples
  themselves, write `{address, address}`.

  What looks like a backend and is none of the forms is refused: a tuple of more elements, and a map or a
  keyword list with an `:id` or a `:value`. As a bare value it is written
  `%GrpcLb.Backend{id: value, value: value}`. Structs of your own are bare values.

  ## Fields

    * `:id` - its identity, any term, unique within a list. What is counted for an id stays with
      it for as long as it is listed. At most 16 megabytes, binaries and all.
    * `:value` - what `GrpcLb.pick/1` returns, any term. Atoms, local pids, local ports, small
      integers and `[]` cost nothing to hand out; other terms are copied to the caller, like a
      message, unless they are interned, see below. At most 16 megabytes, without binaries of more than 64 bytes, which are not copied.
      The balancer itself is refused; a value that has its reference somewhere inside keeps it alive
      until it is closed.

  Both are measured as they are when nothing in them is shared. What a function has closed over is not
  looked into: an id or a value that is a function over a term which is large only when nothing in it is shared,
  copied with it, takes as long as that is large, and holds a scheduler meanwhile. So does sending it to a process.

  ## Interned values

  With `values: :interned` of `GrpcLb.new/3` no value is copied, and no answer is made: `{:ok, value}` is put
  into `:persistent_term` when a backend is listed with a value that is new for its id, and each pick
  returns it from there. A pick costs the same whatever the value is, and who keeps what it picked keeps
  one word. What has been picked stays whole for as long as anybody has it, also after the backend has
  gone: the VM gives those who still have it a copy of their own then. The VM copies a value in one turn of the
  process that lists it, about half a millisecond a megabyte, as each pick does with `:copied`.

  What it costs is paid at a change. To put values there takes a write to `:persistent_term`, and a moment,
  for up to 64 values, or 32 KiB of them; no process has to collect garbage for that. To erase them takes a
  look at every process, by the VM and beside all else: 64 values that came together, or the one that came
  alone, are erased once the last of them is not listed any more. So this is for lists that change now and
  then, and `:copied` for those that change all the time. How often the VM has to look is bounded. The
  application's environment says how:

      config :grpc_lb, interned: [every: 60_000, pages: 100, words: 4_194_304, total_words: 16_777_216]

    * `:every` - the least time between two batches of erasures, in milliseconds
    * `:pages` - how many times a batch has the VM look, at most
    * `:words` - how many words of 8 bytes a batch frees, at most; it may be more where the first page
      alone is
    * `:total_words` - how many words of 8 bytes all that is interned may take, listed or waiting, of all
      balancers of the node; 128 megabytes

  These are the defaults. What is set while the application runs counts at once, but `:every` from the next
  batch on. As long as more than one such batch waits, values that are new are copied as
  with `:copied`. So are those for which `:total_words` leaves no room, and one that would take more than an
  eighth of it, with its binaries. A value that was copied stays so for as long as it is listed. `slots` of
  `GrpcLb.Native.live_counts/0` counts the values that are there.

  `:total_words` is there because what `:persistent_term` holds lies in the VM's memory for literals, which
  code and all other users of `:persistent_term` share: addresses for 1 gigabyte, unless the emulator's flag
  `+MIscs`, in megabytes, says otherwise. When that is full, the VM ends. So keep `:total_words` well below it.

  Values that came together stay until all of them have gone, and count until they are erased. So a small one
  that stays can keep 32 KiB of others: where most of a list goes again and again, and one in 64 stays, those
  that stay have spent the default once they are some 3,800.

  Channels of elixir-grpc are interned by default, by the policy modules and by
  `GrpcLb.ElixirGrpc.Adapter`: addresses of a service change slowly, and elixir-grpc puts its channels into
  `:persistent_term` itself. Pools copy by default, because members come and go with processes, and so do
  connections: a transport is replaced whenever it is lost, and what is in `:persistent_term` everybody can
  read, and is in a crash dump, where a value may have a secret inside.

  Erasures are made by a process of the application `:grpc_lb`. Balancers work while it does not run; what
  they do not need any more waits until it does. The keys are `{GrpcLb.Interned, number}`: leave them alone.
  A value that has a reference inside, such as that of a balancer, keeps what it refers to alive until
  it is erased.

  Before OTP 27 the VM can free a term from `:persistent_term` under a NIF or a driver that runs on a dirty
  scheduler and has been given that term as an argument. So does it with what was interned: where a
  value is to be given to another library's dirty NIFs while it may go, copy it first, or use `:copied`.

  ## Options, and fields with the same names

  #{Options.docs(@options)}
  """

  @enforce_keys [:id, :value]
  defstruct [
    :id,
    :value,
    owner: nil,
    weight: 1,
    priority: 0,
    locality: nil,
    state: nil,
    hash_key: nil
  ]

  @type t :: %__MODULE__{
          id: term(),
          value: term(),
          owner: pid() | nil,
          weight: non_neg_integer(),
          priority: non_neg_integer(),
          locality: String.t() | nil,
          state: GrpcLb.state() | nil,
          hash_key: binary() | nil
        }

  @typedoc "A backend in one of the forms in which it can be written."
  @type form :: t() | {id :: term(), value :: term()} | {term(), term(), keyword()} | term()

  @prepared Options.prepare(@options)

  # Keys of what somebody may take for a backend.
  @looks [:id, :value, "id", "value"]

  @doc "What the options of a backend can be."
  @spec options() :: Options.specs()
  def options, do: @options

  @doc false
  @spec locality(term()) :: {:ok, String.t()} | :error
  def locality(name) do
    if is_binary(name) and byte_size(name) in 1..255 and String.valid?(name),
      do: {:ok, name},
      else: :error
  end

  @doc """
  Turns a list of backends in any form into what `GrpcLb.Native` takes.

  With `hashed?: true` each that has no binary as its id has a text for policies that hash, and subsets.

  Raises `ArgumentError`, naming the position in the list, when one is malformed.

      iex> GrpcLb.Backend.to_native([:a, {:b, 2}, {:c, 3, weight: 5}])
      [{:a, :a}, {:b, 2}, {:c, 3, %{owner: nil, weight: 5, priority: 0, locality: nil, state: nil, hash_key: nil}}]

      iex> GrpcLb.Backend.to_native(["10.0.0.1", {[], 2}], hashed?: true)
      [{"10.0.0.1", "10.0.0.1"}, {[], 2, %{hash_key: <<131, 106>>}}]

      iex> GrpcLb.Backend.to_native([:a, {:b, 2, weight: -1}])
      ** (ArgumentError) option :weight of backend 1 must be an integer from 0 to 4294967295, got: -1
  """
  @spec to_native([form()], hashed?: boolean()) :: [GrpcLb.Native.backend()]
  def to_native(backends, opts \\ [])

  # Most lists are of pairs, which are native, and stay as they are.
  def to_native(backends, []),
    do: if(pairs?(backends), do: backends, else: to_native(backends, backends, 0, []))

  def to_native(backends, hashed?: false), do: to_native(backends)

  def to_native(backends, hashed?: true),
    do: backends |> to_native() |> Enum.with_index(&with_text/2)

  defp pairs?([{_id, _value} | rest]), do: pairs?(rest)
  defp pairs?(rest), do: rest == []

  defp with_text({_id, _value, %{hash_key: text}} = backend, _position) when text != nil,
    do: backend

  # A binary is its own text.
  defp with_text(backend, position) when is_binary(elem(backend, 0)) do
    with :error <- Key.text(elem(backend, 0)), do: no_text!(position)
    backend
  end

  defp with_text({id, value}, position), do: {id, value, %{hash_key: text!(id, position)}}

  defp with_text({id, value, opts}, position),
    do: {id, value, Map.put(opts, :hash_key, text!(id, position))}

  defp text!(id, position), do: with(:error <- Key.spell_out(id), do: no_text!(position))

  @spec no_text!(non_neg_integer()) :: no_return()
  defp no_text!(position) do
    raise ArgumentError,
          "the id of backend #{position} takes more than #{Key.max_bytes()} bytes when it is spelled " <>
            "out, too many to be hashed: it needs a :hash_key"
  end

  defp to_native([form | rest], all, position, done) do
    to_native(rest, all, position + 1, [one_to_native(form, position) | done])
  end

  defp to_native([], _all, _position, done), do: Enum.reverse(done)

  defp to_native(_not_a_list, all, _position, _done) do
    raise ArgumentError, "backends must be a proper list, got: #{Text.show(all)}"
  end

  defp one_to_native(%__MODULE__{id: id, value: value} = backend, position) do
    opts = Map.take(backend, Keyword.keys(@options))
    with_options(id, value, Map.to_list(opts), position)
  end

  defp one_to_native({_id, _value} = pair, _position), do: pair

  defp one_to_native({id, value, opts}, position), do: with_options(id, value, opts, position)

  defp one_to_native(value, position) when is_tuple(value) and tuple_size(value) > 3,
    do: no_form!(value, position)

  defp one_to_native(value, position) when is_map(value) and not is_struct(value) do
    if Enum.any?(@looks, &is_map_key(value, &1)),
      do: no_form!(value, position),
      else: {value, value}
  end

  defp one_to_native([{_key, _value} | _] = value, position) do
    if looks_like_one?(value), do: no_form!(value, position), else: {value, value}
  end

  defp one_to_native(value, _position), do: {value, value}

  # Only the first pair of a list need be one.
  defp looks_like_one?([{key, _value} | rest]), do: key in @looks or looks_like_one?(rest)
  defp looks_like_one?(_rest), do: false

  defp no_form!(value, position) do
    raise ArgumentError,
          "backend #{position} must be a %GrpcLb.Backend{}, {id, value}, {id, value, opts} or a bare " <>
            "value, got: #{Text.show(value)}, which looks like a backend and is none of these; as a bare " <>
            "value it is written %GrpcLb.Backend{id: value, value: value}"
  end

  defp with_options(id, value, opts, position) do
    {id, value, Options.validate!(opts, @prepared, {"backend", position})}
  end
end
