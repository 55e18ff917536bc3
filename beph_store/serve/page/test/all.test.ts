/** All tests that need no browser: `npm test`. */

import "./charts.test.ts";
import "./pure.test.ts";
import "./words.test.ts";
