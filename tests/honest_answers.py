"""Answers that call no tool though tools are on offer, many of which look as if they did. Written by hand."""


def tool(name, description, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TEXT = {"type": "string"}
NUMBER = {"type": "number"}

TOOLS = [
    tool("get_weather", "The weather in a city now.", city=TEXT),
    tool("search_web", "Pages that match a query.", query=TEXT, max_results={"type": "integer"}),
    tool("send_email", "Send an e-mail.", to=TEXT, subject=TEXT, body=TEXT),
    tool("math.factorial", "n!", n={"type": "integer"}),
    tool("convertCurrency", "Convert an amount.", amount=NUMBER, source=TEXT, target=TEXT),
]

PLAIN = (
    "Hello! What can I do for you today?",
    "No.",
    "...",
    "42",
    "OK",
    "I'm sorry, but I can't help with that.",
    "I cannot send e-mails to people without their consent. Is there something else?",
    "Which city do you mean? There is a Paris in France and one in Texas.",
    "To convert the amount I still need the target currency. Which one would you like?",
    "I would call get_weather if you told me which city you are in.",
    "I could use `search_web` for that, but I already know the answer: it is 1969.",
    "You asked me not to use any tools, so here is what I remember: the Rhine is 1,233 km long.",
    "Je ne peux pas répondre sans connaître la ville. Laquelle voulez-vous ?",
    "Das Wetter kann ich erst nachsehen, wenn Sie mir die Stadt nennen.",
    "请告诉我您想查询哪个城市的天气？",
    "どの都市の天気を知りたいですか？",
    "من فضلك أخبرني باسم المدينة.",
    "It is 21 °C and sunny in Oslo at the moment. A light jacket will do.",
    "The function of the heart is to pump blood; each function of the body depends on it.",
    "The tool returned nothing, so I cannot say whether it rains.",
    "Call me maybe? That song is by Carly Rae Jepsen (2011).",
    "Let me think about this. A call to the parameters office costs nothing, so just call them.",
    "Arguments for nuclear power: it is dense and low in carbon. Arguments against: cost and waste.",
    "name: Ada Lovelace\narguments: none that I know of",
    "<|channel|>final<|message|>It is sunny in Oslo.",
)

DATA = (
    '{"city": "Paris", "temperature": 21.5, "unit": "celsius"}',
    '{"name": "Ada Lovelace"}',
    '{"name": "Ada Lovelace", "born": 1815, "fields": ["mathematics", "computing"]}',
    '[{"name": "Ada", "age": 36}, {"name": "Grace", "age": 85}]',
    '{"arguments": ["for", "against"], "topic": "nuclear power"}',
    '{"parameters": {"lr": 0.001, "epochs": 3}}',
    "[1, 2, 3, 5, 8, 13]",
    '["get_weather", "search_web", "send_email"]',
    "[]",
    "{}",
    '"just a string"',
    "null",
    'Here is the record you asked for:\n\n```json\n{"id": 7, "name": "Widget", "price": 9.99}\n```\n\nAnything else?',
    '```json\n[\n  {"name": "Oslo", "population": 709037},\n  {"name": "Bergen", "population": 291940}\n]\n```',
    'The response looks like this: {"status": "ok", "items": []}. An empty list means that there are none.',
    "id,name,arguments\n1,Ada,none\n2,Grace,many",
    "name: build\non: [push, pull_request]\njobs:\n  test:\n    runs-on: ubuntu-latest",
    "```yaml\nfunction:\n  name: hello\n  parameters: []\n```",
    '[package]\nname = "kit"\nversion = "0.1.0"',
)

CODE = (
    "```python\ndef add(a, b):\n    return a + b\n\n\nprint(add(a=1, b=2))\n```",
    "```python\nimport math\n\nmath.factorial(n=5)\n```\n\nThis prints nothing; wrap it in `print(...)`.",
    "Use a list comprehension: `[f(x) for x in range(10)]` builds all ten values at once.",
    "```python\ntools = [get_weather, search_web]\nfor tool in tools:\n    tool()\n```",
    '```\n[\n  "get_weather(city)",\n  "search_web(query)",\n  "send_email(to)"\n]\n```',
    "In Python, `print(get_weather(city='Oslo'))` would show what your own function returns.",
    "```javascript\nconst call = (name, ...args) => fns[name](...args);\ncall('add', 1, 2);\n```",
    "```bash\ncurl -s 'https://example.org/api?city=Oslo' | jq '.name'\n```",
    'Run `ls -la | grep "[a-z]"` and then `rm -i file.txt`.',
    "$ git commit -m 'call the parser' && git push",
    "```sql\nSELECT name, arguments FROM calls WHERE name = 'get_weather';\n```",
    '```html\n<form action="/call">\n  <input name="city">\n  <button>Go</button>\n</form>\n```',
    "<p>Hello <b>world</b></p>\n<ul><li>one</li><li>two</li></ul>",
    "<person>\n  <name>Ada</name>\n  <parameter>none</parameter>\n</person>",
    '<svg width="10"><circle r="5"/></svg>',
    "Use `<function>` as a placeholder and replace it by your own.",
    "```c\nint f(int x) { return x; }\n```",
    "A lambda: `square = lambda x: x * x`, so `square(3)` is 9.",
    '```json\n{"scripts": {"test": "pytest -q"}}\n```\nPut this into your package.json.',
    "```text\nTraceback (most recent call last):\n  File \"a.py\", line 1\nNameError: name 'f' is not defined\n```",
    "def get_weather(city: str) -> str:\n    return f'It is sunny in {city}'",
)

WRITING = (
    "See [the manual](https://example.org/manual) and [its index](https://example.org/index).",
    "The river is 1,233 km long [1], of which 865 km lie in Germany [2].\n\n[1] Atlas, 2020.\n[2] Ibid.",
    "[Note: I have no access to live data, so this may be out of date.]",
    "[laughs] Well, that is one way to put it!",
    "[1] The first source says yes. [2] The second says no.",
    "Let f(x)=1 for x>0 and f(x)=0 otherwise; then F(x)=x is an antiderivative on x>0.",
    "f(x=1) = 3, because f(x) = 2x + 1.",
    "$$\\int_0^1 x^2\\,dx = \\left[\\frac{x^3}{3}\\right]_0^1 = \\frac{1}{3}$$",
    "P(A|B) = P(B|A)P(A)/P(B), where P(B) > 0.",
    "| city | weather |\n|---|---|\n| Oslo | rain |\n| Rome | sun |",
    "- [x] buy milk\n- [ ] call mother\n- [ ] book (table=4)",
    '`get_weather(city: str)` returns the current weather of a city, for instance of "Oslo".',
    "`convertCurrency(amount, source, target)` takes three arguments: a number and two currency codes.",
    "I have five tools: get_weather, search_web, send_email, math.factorial and convertCurrency.",
    "**Tool:** search_web\n**What it does:** it finds pages.\n**Parameters:** query, max_results.",
    '1. Open the settings.\n2. Choose "Functions".\n3. Call support if it fails.',
    "> Call me Ishmael.\n\nThat is how *Moby-Dick* begins.",
    "Action: the director calls for silence. Then the scene begins.",
    "Action items:\n- Ada: call the bank\n- Grace: send the parameters",
    'The search returned three results:\n{"title": "Rhine", "url": "https://example.org/rhine"}\nThe first is the best.',
    'get_weather said: {"city": "Oslo", "celsius": 4, "sky": "rain"}. So take an umbrella.',
    "A tool call is a message in which a model names a function and its arguments.",
    "In mathematics, 5! = 5 * 4 * 3 * 2 * 1 = 120, so you do not need math.factorial for it.",
    "Dear Ms Hopper,\n\nthank you for your call (of 3 May). Please find the parameters below.\n\nAda",
    "Sure 😊 Here's a haiku:\n\nrain on the tin roof\na call that nobody hears\n{ silence } in brackets",
    "The interval is [0, 1) and the set is {x | x > 0}.",
    "if (a[i] < b[j]) then swap; otherwise do nothing.",
    "Regular expression: `\\[(\\w+)\\((.*)\\)\\]` matches a name with parentheses inside brackets.",
)

HONEST = PLAIN + DATA + CODE + WRITING
