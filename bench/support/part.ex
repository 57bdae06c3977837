defmodule GrpcLb.Bench.Part do
  @moduledoc false
  # A measurement that is no field of contenders: its rows, and the budgets that they are held to.

  @callback measure(plan :: map) :: {rows :: [map], budgets :: [map]}
  @callback tables(rows :: [map]) :: [{title :: String.t(), header :: [String.t()], [[term]]}]
end
