defmodule GrpcLb.ElixirGrpc.Addresses do
  @moduledoc false
  # What the holder of a connection of elixir-grpc knows of its addresses.

  @typedoc "Host and port, as the channel has them: the id of the backend."
  @type address :: {host :: term(), port :: term()}

  @typedoc """
  `subchannel` connects to it, and `process` is the one that calls go to, when it has connected and the
  adapter has such. `waiting` are the callers of its first attempt, and nil after it. `leaving?` says that
  elixir-grpc wants it no more and that it was the last, and `by` which process of elixir-grpc has asked
  for it last.
  """
  @type known :: %{
          subchannel: pid() | nil,
          process: pid() | nil,
          waiting: [GenServer.from()] | nil,
          connecting?: boolean(),
          leaving?: boolean(),
          by: pid() | nil
        }

  @type t :: %{address() => known()}

  @doc "An address that is connected to for the first time."
  @spec first(GenServer.from(), by :: pid() | nil) :: known()
  def first(from, by) do
    %{
      subchannel: nil,
      process: nil,
      waiting: [from],
      connecting?: false,
      leaving?: false,
      by: by
    }
  end

  @doc "The address of a subchannel. One that drains has none, or another subchannel has it."
  @spec of_subchannel(t(), pid()) :: {:ok, address()} | :error
  def of_subchannel(addresses, subchannel), do: find(addresses, &(&1.subchannel == subchannel))

  @doc "The address that a process is connected to."
  @spec of_process(t(), pid()) :: {:ok, address()} | :error
  def of_process(addresses, process), do: find(addresses, &(&1.process == process))

  defp find(addresses, fun) do
    case Enum.find(addresses, fn {_address, known} -> fun.(known) end) do
      {address, _known} -> {:ok, address}
      nil -> :error
    end
  end

  @doc "Whether one is connected to that was connected before."
  @spec connecting?(t()) :: boolean()
  def connecting?(addresses), do: Enum.any?(Map.values(addresses), & &1.connecting?)

  @doc "Whether none is wanted any more."
  @spec all_leaving?(t()) :: boolean()
  def all_leaving?(addresses), do: Enum.all?(Map.values(addresses), & &1.leaving?)

  @doc "Those that are not wanted any more."
  @spec leaving(t()) :: [address()]
  def leaving(addresses), do: for({address, %{leaving?: true}} <- addresses, do: address)

  @doc """
  Those that this process of elixir-grpc does not know: another one has asked for them. The first ones of a
  connection are asked for before it has a process, which knows them, and so does each in its place.
  """
  @spec unknown_to(t(), pid() | nil) :: [address()]
  def unknown_to(addresses, pid),
    do: for({address, %{by: by}} <- addresses, by not in [nil, pid], do: address)
end
