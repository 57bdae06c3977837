defmodule Demo.CommandLine do
  @moduledoc false
  # What the arguments ask for: scenes, with their options.

  alias Demo.Scene
  alias Demo.Scenes.{Balancer, Connection, Contest, PickCost, Pool, Restart}
  alias Demo.Servers.Lineup

  @usage "mix demo [--scene SCENE] [--seconds SECONDS] " <>
           "[--policy POLICY [--slow N] [--flaky N]]"
  @switches [scene: :string, seconds: :float, policy: :string, slow: :integer, flaky: :integer]

  # With the requests that each is for at least.
  @scenes [
    {"balancer", Balancer, 100_000},
    {"pool", Pool, 8_000},
    {"connection", Connection, 8_000},
    {"restart", Restart, 8_000},
    {"cost", PickCost, 0}
  ]
  @seconds 10
  @most_seconds 30
  # The scenes after the first are quick to grasp. The last takes its own time.
  @short_seconds 4

  # Raises `Mix.Error` that says what is wrong and what is allowed.
  @spec parse!([String.t()]) :: [{module(), Scene.options()}]
  def parse!(args) do
    case OptionParser.parse(args, strict: @switches) do
      {options, [], []} -> scenes(Map.new(options))
      {_options, _words, [{switch, value} | _]} -> wrong!(refused(switch, value))
      {_options, [word | _], []} -> wrong!("unexpected argument #{word}")
    end
  end

  defp scenes(%{policy: policy} = options) do
    if is_map_key(options, :scene), do: wrong!("--scene does not go with --policy")
    lineup = lineup!(Map.get(options, :slow, 0), Map.get(options, :flaky, 0))
    # With less, nothing would be left after the first sweeps.
    seconds = seconds!(options, ceil(2 * Contest.settled_ms() / 1000))
    [{Contest, %{policy: policy!(policy), lineup: lineup, seconds: seconds}}]
  end

  defp scenes(options) do
    for option <- [:slow, :flaky], is_map_key(options, option) do
      wrong!("--#{option} goes with --policy only")
    end

    seconds = seconds!(options, 0)

    case options do
      %{scene: name} -> [scene(scene!(name), seconds)]
      %{} -> [scene(hd(@scenes), seconds) | Enum.map(tl(@scenes), &scene(&1, short(seconds)))]
    end
  end

  defp scene({_name, scene, requests}, seconds) do
    {scene, %{seconds: seconds, requests: requests}}
  end

  defp short(seconds), do: min(seconds, @short_seconds)

  defp scene!(name) do
    names = Enum.map_join(@scenes, " or ", &elem(&1, 0))

    List.keyfind(@scenes, name, 0) ||
      wrong!("unknown scene #{inspect(name)}, expected #{names}")
  end

  defp seconds!(options, least) do
    seconds = Map.get(options, :seconds, @seconds)

    if seconds < least or seconds > @most_seconds do
      with_policy = if is_map_key(options, :policy), do: " with --policy", else: ""
      wrong!("--seconds#{with_policy} must be from #{least} to #{@most_seconds}, got #{seconds}")
    end

    seconds
  end

  defp policy!(name) do
    names = GrpcLb.Policy.names()

    Enum.find(names, &(Atom.to_string(&1) == name)) ||
      wrong!("unknown policy #{inspect(name)}, expected #{Enum.join(names, " or ")}")
  end

  defp lineup!(slow, flaky) do
    all = Lineup.size()

    for {option, number} <- [slow: slow, flaky: flaky], number < 0 do
      wrong!("--#{option} must be from 0 to #{all}, got #{number}")
    end

    if slow + flaky > all do
      wrong!("there are #{all} servers, too few for #{slow} slow and #{flaky} flaky ones")
    end

    Lineup.new(slow, flaky)
  end

  defp refused(switch, value) do
    known? = Enum.any?(@switches, fn {option, _type} -> "--#{option}" == switch end)

    case {known?, value} do
      {false, _value} -> "unknown option #{switch}"
      {true, nil} -> "#{switch} needs a value"
      {true, value} -> "#{switch} must be a number, got #{value}"
    end
  end

  @spec wrong!(String.t()) :: no_return()
  defp wrong!(what), do: Mix.raise("#{what}\nusage: #{@usage}")
end
