defmodule Demo.Callers.Meter do
  @moduledoc false
  # What a client counts. It outlives the client, and the view reads it while that runs.

  @fields [sent: 1, answered: 2, served: 3, overtaken: 4]

  @type t :: :counters.counters_ref()

  def new, do: :counters.new(length(@fields), [])
  def add(meter, field), do: :counters.add(meter, @fields[field], 1)
  def put(meter, field, value), do: :counters.put(meter, @fields[field], value)
  def get(meter, field), do: :counters.get(meter, @fields[field])
end
