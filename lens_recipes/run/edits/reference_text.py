"""A few paragraphs of plain English, over which `ablate(to="mean")` takes its mean."""

REFERENCE_TEXTS = (
    "The river rises in the hills to the north, where the rain falls for most of the year. It "
    "runs past three small towns before it reaches the sea. In the second of them there is a "
    "mill, built of grey stone, which has not turned for sixty years.",
    "To make the dough, mix the flour with a little salt and add the water slowly. Leave it "
    "under a cloth until it has doubled in size, then fold it twice and let it rest again. Bake "
    "it for forty minutes, and do not open the door before the end.",
    "When a gas is compressed, its temperature goes up, because work is done on its molecules. If "
    "the heat can leave, the pressure stays lower than it would otherwise be. Engineers use this "
    "difference in pumps, in engines and in refrigerators.",
    "She asked him whether the last train had gone. He looked at the clock above the door, then at "
    "his watch, and said that it had left early. They sat down on the bench and waited for the "
    "morning, talking about nothing in particular.",
    "The company reported on Tuesday that its sales had grown by 7 percent in the third quarter, "
    "while its costs were nearly the same as a year before. Its shares fell slightly all the same, "
    "since many had expected more. A new director will be named in March.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "Members of the committee shall be elected for two years. A member who is absent from three "
    "meetings in a row, without a reason that the others accept, may be replaced. Decisions are "
    "taken by a majority of those who are present.",
    "Most owls hunt at night. Their eyes are large and face forward, and their feathers are "
    "soft at the edges, so that they fly without a sound. A pair raises two to six young in "
    "a year, depending on how many mice there are.",
)
