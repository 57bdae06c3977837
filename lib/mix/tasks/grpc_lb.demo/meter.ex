defmodule Mix.Tasks.GrpcLb.Demo.Meter do
  @moduledoc false
  # What one connection counts. It outlives the connection, and the view reads it while it runs.

  @fields [sent: 1, answered: 2, served: 3, overtaken: 4]

  @type t :: :counters.counters_ref()

  def new, do: :counters.new(length(@fields), [])
  def add(meter, field), do: :counters.add(meter, @fields[field], 1)
  def put(meter, field, value), do: :counters.put(meter, @fields[field], value)
  def get(meter, field), do: :counters.get(meter, @fields[field])
end
