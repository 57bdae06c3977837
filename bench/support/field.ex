defmodule GrpcLb.Bench.Field do
  @moduledoc false
  # Contenders that are timed against each other, in cases (a kind of value and a number of
  # backends), with one process and with many.

  alias GrpcLb.Bench.{Budget, Contender}

  @type kind :: :pid | :channel
  @type timed :: {contender :: atom, processes :: pos_integer}

  @typedoc "A budget of the time of one, net of the loop, as ratio to that of the other."
  @type ratio :: {Budget.t(), own :: timed, to :: timed}

  @doc "What the tables of a case say over the number of processes."
  @callback title(kind, backends :: pos_integer) :: String.t()
  @callback cases(plan :: map) :: [{kind, backends :: pos_integer}]
  @callback processes :: [pos_integer]
  @callback contenders(kind) :: [Contender.t()]
  @doc "What the ratios of the others are to, with the titles of their columns."
  @callback bases :: [{contender :: atom, title :: String.t()}]
  @callback ratios(kind, backends :: pos_integer) :: [ratio]
end
