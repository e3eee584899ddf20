#include "eval/verify.h"

namespace quern::eval {

std::string_view sample_text() {
  return R"text(The mill stood where the brook leaves the wood. It was older than anybody in the village could say, and for most of its life it had done one thing: a wheel turned a shaft, the shaft turned a stone, and between that stone and another one grain became flour. A farmer who came with twelve sacks in the morning could drive home before dark with flour for the winter.

The stones had to be dressed every few weeks. The miller lifted the upper one with a crane of oak, laid it on its back, and cut the furrows anew with a steel pick. If he cut too deep, the flour came out coarse; if he cut too little, the stone ran hot and the bread tasted of smoke. "You cannot see a good stone," he used to say, "but you can feel it between two fingers." His daughter Ada learned to judge the meal by rubbing it, and by the time she was fifteen she was right more often than he was.

How much could it grind? On a good day the wheel made eight turns a minute, and a gear of wood made sixteen turns of the stone out of each of them. That is 8 x 16 = 128 turns a minute. With 3 kilograms of grain for every 32 turns, the mill took in 128 / 32 x 3 = 12 kilograms a minute, or 720 kilograms an hour. In a dry August the wheel made only five turns, and the same sum gave 450. Ada wrote both numbers on the door with chalk, so that people would stop asking.

In the spring of the year when the bridge was carried away, a man came from the city with a leather case. He wanted to know three things: how high the water stood, how wide the channel was, and whether the family would sell. The first two they told him. He measured for two days, drew a map in brown ink, and left on the third with wet shoes and no contract. Some months later a letter arrived in which he thanked them for the soup and explained what a turbine was.

Ada read the letter twice. Then she took a pencil and made a list:
1. Ask the smith whether he can cast a wheel of iron.
2. Find out what a second pair of stones costs.
3. Keep the old wheel until the new one has worked for a year.
She did not show it to anyone before Sunday. Her father looked at it for a long time, turned it over to see if there was more on the other side, and said that the third point was the best one.

Today the building is a museum. Children may pour wheat into the hopper and watch it creep towards the eye of the stone; a sign asks them, in four languages, to keep their sleeves away from the belt. Most visitors believe that the noise comes from the stones. In truth the stones hardly touch: there is a gap between them as thin as paper, and everything depends on keeping it. What rattles is a small piece of wood called the damsel, which shakes the grain out of its shoe. When the hopper runs empty, a bell rings, and then somebody has to hurry, because stones that run without grain strike sparks.
)text";
}

}  // namespace quern::eval
