defmodule GrpcLb.Connection.Health do
  @moduledoc false
  # What the checks of a transport, and what it says of itself, make of it. Thresholds as Envoy's health
  # checks have them: so many results in a row change it. What a transport says of itself counts at once, and
  # no check that passes undoes it: it works, and its server wants no calls. Pure.

  alias GrpcLb.Connection.Options

  @enforce_keys [:healthy_threshold, :unhealthy_threshold]
  defstruct @enforce_keys ++ [state: :healthy, said?: false, in_a_row: 0]

  @typedoc "It is `:down` when it does not work, and is to be closed."
  @type state :: :healthy | {:unhealthy | :down, reason :: term()}

  @type t :: %__MODULE__{
          healthy_threshold: pos_integer(),
          unhealthy_threshold: pos_integer(),
          state: state(),
          # Whether it is unhealthy by its own word.
          said?: boolean(),
          in_a_row: non_neg_integer()
        }

  @type result :: :ok | {:unhealthy, reason :: term()} | {:error, reason :: term()}

  @doc "That of a transport that has been opened just now."
  @spec new(Options.t()) :: t()
  def new(%{healthy_threshold: healthy, unhealthy_threshold: unhealthy}),
    do: %__MODULE__{healthy_threshold: healthy, unhealthy_threshold: unhealthy}

  @doc """
  What it is after another check.

      iex> health = GrpcLb.Connection.Health.new(%{healthy_threshold: 1, unhealthy_threshold: 2})
      iex> once = GrpcLb.Connection.Health.checked(health, {:unhealthy, :starting})
      iex> twice = GrpcLb.Connection.Health.checked(once, {:unhealthy, :starting})
      iex> {once.state, twice.state, GrpcLb.Connection.Health.checked(twice, :ok).state}
      {:healthy, {:unhealthy, :starting}, :healthy}
  """
  @spec checked(t(), result()) :: t()
  def checked(%{state: :healthy} = health, :ok), do: %{health | in_a_row: 0}
  def checked(%{said?: true} = health, :ok), do: health
  def checked(health, :ok), do: count(health, health.healthy_threshold, :healthy)

  def checked(%{state: :healthy} = health, {:unhealthy, reason}),
    do: count(health, health.unhealthy_threshold, {:unhealthy, reason})

  def checked(%{state: :healthy} = health, {:error, reason}),
    do: count(health, health.unhealthy_threshold, {:down, reason})

  def checked(health, {:unhealthy, _again}), do: %{health | in_a_row: 0}
  # It is out of the rotation, and does not work.
  def checked(health, {:error, reason}), do: %{health | state: {:down, reason}}

  defp count(%{in_a_row: n} = health, threshold, state) when n + 1 >= threshold,
    do: %{health | state: state, in_a_row: 0}

  defp count(%{in_a_row: n} = health, _threshold, _state), do: %{health | in_a_row: n + 1}

  @doc """
  What it is after it has said so.

      iex> health = GrpcLb.Connection.Health.new(%{healthy_threshold: 1, unhealthy_threshold: 1})
      iex> said = GrpcLb.Connection.Health.said(health, {:unhealthy, :not_serving})
      iex> checked = GrpcLb.Connection.Health.checked(said, :ok)
      iex> {checked.state, GrpcLb.Connection.Health.said(checked, :healthy).state}
      {{:unhealthy, :not_serving}, :healthy}
  """
  @spec said(t(), :healthy | {:unhealthy, reason :: term()}) :: t()
  def said(health, state), do: %{health | state: state, said?: state != :healthy, in_a_row: 0}
end
