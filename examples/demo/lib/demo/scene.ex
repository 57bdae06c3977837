defmodule Demo.Scene do
  @moduledoc false
  # A part of the demo: announced before it begins, played, and judged by what was counted.

  alias Demo.Check
  alias Demo.View.Style

  # seconds     how long its requests run
  # requests    how many there are at least, in a scene that takes longer where they do
  @type options :: %{required(:seconds) => number(), optional(atom()) => term()}

  # sentence   what one is to remember, if all checks hold
  # tables     what shows it, with their titles
  @type outcome :: %{
          sentence: String.t(),
          tables: [{title :: String.t(), [IO.chardata()]}],
          checks: [Check.t()]
        }

  @callback title() :: String.t()
  @callback announcement(options()) :: [paragraph :: String.t()]
  @callback play(Style.t(), options()) :: outcome()
end
