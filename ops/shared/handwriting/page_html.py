"""The page of the predictor: HTML, style and script in one, nothing else to load, so that it works offline.

It is a module because components and bundles carry modules alone, and short because each of them carries it.
`handwriting.page` serves it.
"""

STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f2;--card:#fff;--ink:#1d1d1f;--dim:#5c5c63;--line:#d5d3cc;--go:#1457b8;
--ok:#1f8a4c;--mid:#b06a00;--low:#c4231d}
@media(prefers-color-scheme:dark){:root{--bg:#16171a;--card:#212327;--ink:#f0f0f2;--dim:#a9abb3;--line:#3d4047;
--go:#8ab6ff;--ok:#4fc07d;--mid:#f0ad3d;--low:#ff7b72}}
*{box-sizing:border-box}
[hidden],html:not([data-keeps]) .keeps,html[data-keeps] .forgets{display:none!important}
body{margin:auto;max-width:46rem;padding:1rem;font:1rem/1.5 system-ui,sans-serif;background:var(--bg);color:var(--ink)}
header,.row,.check{display:flex;gap:.6rem;align-items:center}
header{justify-content:space-between}
h1{font-size:1.4rem;margin:0}
.row{flex-wrap:wrap}
p{margin:.5rem 0}
.dim{color:var(--dim);font-size:.9rem;overflow-wrap:anywhere}
#drop,article{background:var(--card);border:1px solid var(--line);border-radius:.8rem;padding:1rem;margin:1rem 0}
#drop{border:2px dashed var(--line)}
.over #drop{border-color:var(--go)}
button,.btn,summary{display:flex;align-items:center;justify-content:center;width:fit-content;min-height:2.75rem;
padding:0 1rem;border:1px solid var(--line);border-radius:.6rem;background:var(--card);color:var(--ink);font:inherit;
cursor:pointer}
.main{background:var(--go);border-color:var(--go);color:var(--card)}
:focus-visible,input:focus-visible+.btn{outline:3px solid var(--go);outline-offset:2px}
.sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.check{min-height:2.75rem;margin-top:.6rem}
.check input{width:1.4rem;height:1.4rem;flex:none}
canvas{width:100%;height:10rem;margin:.8rem 0;border:1px solid var(--line);border-radius:.6rem;touch-action:none;
cursor:crosshair}
figure{margin:0;position:relative;overflow:hidden}
img{display:block;max-width:100%;max-height:70vh;touch-action:pan-y;cursor:crosshair}
i{position:absolute;border:2px solid #1457b8;background:#1457b833}
.text{font-size:1.5rem;line-height:1.9;overflow-wrap:anywhere}
b{font-weight:400;white-space:pre-wrap;margin-right:1px;border-bottom:3px solid var(--ok)}
.mid{border-bottom:3px dashed var(--mid)}
.low{border-bottom:5px dotted var(--low)}
.error{color:var(--low)}
summary{margin:.6rem 0;list-style:none}
textarea,#token{display:block;width:100%;margin:.5rem 0;padding:.6rem;font:inherit;border-radius:.6rem}
dialog{max-width:22rem;border:1px solid var(--line);border-radius:.8rem;background:var(--card);color:var(--ink)}
.touch{display:none}
@media(pointer:coarse){.touch{display:flex}.fine{display:none}.row>*{flex:auto}}
"""

BODY = """
<header><h1 data-t="title"></h1><button id="lang" data-t="other"></button></header>
<main>
<div id="drop">
<p data-t="intro"></p>
<p class="dim fine" data-t="hint"></p>
<div class="row">
<input class="sr" id="file" type="file" accept="image/*" multiple>
<label class="btn main" for="file" data-t="file"></label>
<input class="sr touch" id="camera" type="file" accept="image/*" capture="environment">
<label class="btn touch" for="camera" data-t="camera"></label>
<button id="draw" aria-expanded="false" aria-controls="pad" data-t="draw"></button>
</div>
<div id="pad" hidden><canvas id="ink" role="img" data-a="pad"></canvas><div class="row">
<button id="undo" data-t="undo"></button>
<button id="clear" data-t="clear"></button>
<button id="done" class="main" data-t="done"></button></div></div>
<label class="check keeps"><input id="keep" type="checkbox"><span data-t="keep"></span></label>
<p class="dim forgets" data-t="forgets"></p>
</div>
<p id="say" class="sr" role="status"></p>
<div id="list"></div>
</main>
<dialog id="door"><form method="dialog">
<label><span data-t="token"></span><input id="token" type="password" autocomplete="off" required></label>
<div class="row"><button class="main" value="in" data-t="enter"></button>
<button formnovalidate data-t="cancel"></button></div></form></dialog>
<template id="card"><article>
<figure><img data-a="picture" draggable="false"><i hidden></i></figure>
<p class="part dim"></p>
<p class="state"></p>
<p class="text" translate="no"><span class="sr"></span><span class="chars" aria-hidden="true"></span></p>
<p class="unsure dim"></p>
<p class="facts dim"></p>
<div class="row"><button class="copy" data-t="copy" hidden></button>
<button class="again" data-t="again" hidden></button></div>
<details class="wrong keeps" hidden><summary data-t="wrong"></summary><form>
<label><span data-t="right"></span><textarea maxlength="200" autocomplete="off" spellcheck="false" required></textarea>
</label><button class="main" data-t="send"></button>
<p class="sent dim" role="status" data-t="note"></p></form></details>
</article></template>
"""

SCRIPT = r"""'use strict';
const T={title:['Read handwriting','Đọc chữ viết tay'],other:['Tiếng Việt','English'],
intro:['A picture of one handwritten line becomes text.','Ảnh một dòng chữ viết tay trở thành văn bản.'],
hint:['Drop pictures here, paste one (Ctrl+V), or','Thả ảnh vào đây, dán ảnh (Ctrl+V), hoặc'],
file:['Choose pictures','Chọn ảnh'],camera:['Take a photo','Chụp ảnh'],draw:['Write by hand','Viết tay'],
pad:['Write one line with mouse, finger or pen','Viết một dòng bằng chuột, ngón tay hoặc bút'],
undo:['Undo','Hoàn tác'],clear:['Clear','Xóa'],done:['Read it','Đọc'],
keep:['My pictures may be kept, so that the reader learns','Cho phép giữ ảnh của tôi để máy học thêm'],
forgets:['This service keeps no pictures.','Dịch vụ này không giữ lại ảnh.'],
picture:['The picture','Ảnh'],part:['Drag over one line to read it alone.','Kéo trên một dòng để chỉ đọc dòng đó.'],
reading:['Reading…','Đang đọc…'],copy:['Copy','Sao chép'],copied:['Copied','Đã sao chép'],again:['Try again','Thử lại'],
sure:['Sure of every character.','Chắc chắn về mọi ký tự.'],unsure:['Unsure of {0}','Chưa chắc về {0}'],
facts:['Confidence {0} · {1} ms · model {2}','Độ tin cậy {0} · {1} ms · mô hình {2}'],
wrong:['That’s wrong','Đọc sai rồi'],right:['What it really says','Nội dung đúng'],send:['Send','Gửi'],
note:['Picture and text will be kept.','Ảnh và nội dung sẽ được giữ lại.'],thanks:['Thank you!','Cảm ơn bạn!'],
nothing:['No text found.','Không thấy chữ.'],
failed:['The server could not do that ({0}). {1}','Máy chủ không làm được ({0}). {1}'],
offline:['The server cannot be reached.','Không kết nối được với máy chủ.'],
token:['This service needs a token','Dịch vụ này cần mã truy cập'],enter:['Go on','Tiếp tục'],cancel:['Cancel','Hủy'],
full:['The server is busy. Try again in some seconds.','Máy chủ đang bận. Hãy thử lại sau vài giây.'],
'too large':['The picture is too large.','Ảnh quá lớn.'],'too small':['The picture is too small.','Ảnh quá nhỏ.'],
'too wide':['The picture is too wide for one line.','Ảnh quá rộng so với một dòng.'],
'not a picture':['This is no picture that can be read.','Tệp này không phải ảnh đọc được.'],
truncated:['The picture is damaged.','Ảnh bị hỏng.']};
const root=document.documentElement,$=id=>document.getElementById(id),percent=p=>Math.round(p*100)+' %';
const memory=(key,value,where='localStorage')=>{
try{return value?window[where][key]=value:window[where][key]}catch{}};
let lang,opened,queue=Promise.resolve(),token=memory('token','','sessionStorage');
function show(e){
const{t,a}=e.dataset;
if(t)e.textContent=T[t][lang].replace(/{(.)}/g,(_,i)=>e.args[i]);
if(a)e.setAttribute(e.alt===undefined?'aria-label':'alt',T[a][lang])}
function put(e,key,...args){e.dataset.t=key;e.args=args;show(e)}
const translate=part=>part.querySelectorAll('[data-t],[data-a]').forEach(show);
function speak(to){
lang=to;root.lang=['en','vi'][to];$('lang').lang=['vi','en'][to];document.title=T.title[to];translate(document)}
$('lang').onclick=()=>{speak(1-lang);memory('lang',root.lang)};

const unlock=()=>opened??=new Promise(done=>{
const door=$('door');
door.returnValue=$('token').value='';door.showModal();
door.onclose=()=>{
opened=null;
if(door.returnValue)memory('token',token=$('token').value.replace(/[^!-~]/g,''),'sessionStorage');
done(door.returnValue)}});
async function ask(path,fields,headers){
const body=new FormData,used=token;
for(const key in fields)body.append(key,fields[key]);
let answer,json={};
try{
answer=await fetch(path,{method:'POST',body,headers:used?{...headers,Authorization:'Bearer '+used}:headers});
json=await answer.json()}catch{}
if(!answer)return{why:['offline']};
if(answer.ok)return json;
if(answer.status==401)return used!=token||await unlock()?ask(path,fields,headers):{why:['token']};
const known=T[json.error]?json.error:[429,503].includes(answer.status)?'full':'failed';
return{error:json.error,why:[known,answer.status,json.message||'']}}

function part(source,x,y,w,h){
const canvas=document.createElement('canvas');canvas.width=w;canvas.height=h;
canvas.getContext('2d').drawImage(source,-x,-y);
canvas.toBlob(add)}

function add(file){
const card=$('card').content.cloneNode(true).firstElementChild,at=name=>card.querySelector(name);
const image=at('img'),keep=$('keep').checked?'yes':'no',run=()=>queue=queue.then(()=>read(at,file,keep));
translate(card);put(at('.state'),'reading');
image.src=URL.createObjectURL(file);image.onerror=()=>image.hidden=true;
image.onload=()=>image.naturalHeight>200&&put(at('.part'),'part');
$('list').prepend(card);
at('.again').onclick=run;
at('.copy').onclick=()=>{
getSelection().selectAllChildren(at('.chars'));document.execCommand('copy');put(at('.copy'),'copied')};
at('form').onsubmit=event=>{event.preventDefault();correct(at,file)};
at('textarea').onkeydown=event=>{
if(event.key=='Enter'&&!event.isComposing){event.preventDefault();at('form').requestSubmit()}};
selectable(image,at('i'));
run()}
async function read(at,file,keep){
const state=at('.state'),start=performance.now();
const tell=(...what)=>{put(state,...what);put($('say'),...what)};
tell('reading');state.className='state';at('.again').hidden=true;
const got=await ask('predict',{file},{Accept:'application/json','X-Keep-Picture':keep});
if(got.why){
tell(...got.why);state.className='state error';return at('.again').hidden=false}
const text=[...got.text],sure=got.characters,doubts=[];
at('.chars').replaceChildren(...text.map((char,i)=>{
const b=document.createElement('b'),note=`“${b.textContent=char}” ${percent(sure[i])}`;
b.title=note;b.className=sure[i]<.6?'low':sure[i]<.9?'mid':'';
if(b.className)doubts.push(note);
return b}));
at('.sr').textContent=at('textarea').value=got.text;
tell('nothing');state.hidden=!!got.text;
if(got.text){delete $('say').dataset.t;$('say').textContent=got.text}
put(at('.unsure'),doubts.length?'unsure':'sure',doubts.join(', '));at('.unsure').hidden=at('.copy').hidden=!got.text;
put(at('.facts'),'facts',percent(got.confidence),Math.round(performance.now()-start),got.version);
at('.wrong').hidden=false}
async function correct(at,file){
const got=await ask('correction',{file,text:at('textarea').value});
put(at('.sent'),...got.why||['thanks']);
if(got.error=='keeps nothing')delete root.dataset.keeps}

function selectable(image,box){
let from,x,y,w,h;
image.onpointerdown=event=>{image.setPointerCapture(event.pointerId);from=[event.offsetX,event.offsetY]};
image.onpointermove=event=>{
if(!from)return;
[[x,w],[y,h]]=[event.offsetX,event.offsetY].map((to,i)=>{
const low=Math.max(0,Math.min(to,from[i]));return[low,Math.max(to,from[i])-low]});
box.style=`left:${x}px;top:${y}px;width:${w}px;height:${h}px`;box.hidden=false};
image.onpointercancel=image.onpointerup=event=>{
const k=image.naturalWidth/image.clientWidth;
if(event.type=='pointerup'&&!box.hidden&&w>9&&h>9)part(image,x*k,y*k,w*k,h*k);
box.hidden=true;from=0}}

const ink=$('ink'),pen=ink.getContext('2d');
let strokes=[];
function paint(){
ink.width=ink.clientWidth*2;ink.height=ink.clientHeight*2;
pen.fillStyle='#fff';pen.fillRect(0,0,ink.width,ink.height);
pen.lineWidth=6;pen.lineCap=pen.lineJoin='round';
for(const stroke of strokes){pen.beginPath();for(const spot of[stroke[0],...stroke])pen.lineTo(...spot);pen.stroke()}}
const dot=event=>{strokes.at(-1).push([event.offsetX*2,event.offsetY*2]);paint()};
ink.onpointerdown=event=>{ink.setPointerCapture(event.pointerId);strokes.push([]);dot(event)};
ink.onpointermove=event=>event.buttons&&strokes.length&&dot(event);
onresize=paint;
$('draw').onclick=()=>{$('draw').ariaExpanded=!($('pad').hidden=!$('pad').hidden);paint()};
$('undo').onclick=()=>{strokes.pop();paint()};
$('clear').onclick=()=>{strokes=[];paint()};
$('done').onclick=()=>{
if(!strokes.length)return put($('say'),'pad');
const[[x,right],[y,bottom]]=[0,1].map(i=>{const all=strokes.flat().map(spot=>spot[i]);
return[Math.max(0,Math.min(...all)-24),Math.max(...all)+24]});
part(ink,x,y,right-x,bottom-y);$('clear').onclick()};

const addAll=files=>[...files].forEach(add);
for(const id of['file','camera'])$(id).onchange=event=>{addAll(event.target.files);event.target.value=''};
document.onpaste=event=>{const{files}=event.clipboardData;if(files.length){event.preventDefault();addAll(files)}};
const over=event=>document.body.classList.toggle('over',event.type=='dragover');
ondragover=event=>{event.preventDefault();over(event)};
ondragleave=over;
ondrop=event=>{event.preventDefault();over(event);addAll(event.dataTransfer.files)};
$('keep').checked=memory('keep')!='no';
$('keep').onchange=event=>memory('keep',event.target.checked?'yes':'no');
speak(+((memory('lang')||navigator.language).startsWith('vi')));
"""
